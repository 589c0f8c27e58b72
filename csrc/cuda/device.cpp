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

}  // namespace

OutOfMemory::OutOfMemory(std::size_t wanted, std::size_t free, std::size_t total)
    : DeviceError("out of device memory: " + mebibytes(wanted) + " wanted, " + mebibytes(free) +
                  " of " + mebibytes(total) + " free, " +
                  mebibytes(wanted > free ? wanted - free : 0) + " missing" +
                  (wanted > free ? "" : " in one piece") +
                  ": close other programs, use fewer requests per batch or memory=\"staged\"") {}

}  // namespace omni_rt::cuda
