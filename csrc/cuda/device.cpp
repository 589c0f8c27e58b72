#include "device.h"

#include <array>
#include <cstdio>

namespace omni_rt::cuda {
namespace {

std::string mebibytes(std::size_t bytes) {
  std::array<char, 32> text{};
  std::snprintf(text.data(), text.size(), "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  return text.data();
}

std::string problem(std::size_t wanted, std::size_t free, std::size_t total) {
  const std::string has = mebibytes(free) + " of " + mebibytes(total) + " free";
  if (wanted == 0) return has;
  const std::string missing =
      wanted > free ? mebibytes(wanted - free) + " missing" : "but not in one piece";
  return mebibytes(wanted) + " wanted, " + has + ", " + missing;
}

}  // namespace

OutOfMemory::OutOfMemory(std::size_t wanted, std::size_t free, std::size_t total)
    : DeviceError("out of device memory: " + problem(wanted, free, total) +
                  ": close other programs, use fewer requests per batch or memory=\"staged\"") {}

}  // namespace omni_rt::cuda
