// The kernels give the CPU step's bits. Needs a GPU: without one it exits with 77, "skipped".

#include <algorithm>
#include <cstdio>
#include <random>
#include <vector>

#include "check.h"
#include "core/sampler.h"
#include "cuda/cuda_device.h"
#include "cuda/loop.h"

namespace omni_rt::testing {
namespace {

using cuda::CudaDevice;
using cuda::IoType;
using cuda::Loop;
using cuda::Mode;

std::vector<float> numbers(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

/// A velocity that stays what it is.
class Constant final : public cuda::StreamEngine {
 public:
  void enqueue(std::uintptr_t) override {}
};

class Nothing final : public StepEngine {
 public:
  void evaluate() override {}
};

class Silent final : public Observer {
 public:
  void on_row(std::size_t, std::size_t) override {}
  bool cancelled() override { return false; }
};

std::vector<Row> rows_of_every_column(std::size_t count) {
  const std::vector<float> values = numbers(8 * count, 5);
  std::vector<Row> rows;
  for (std::size_t n = 0; n < count; ++n) {
    const auto f = [&](std::size_t i) { return values[8 * n + i] / 4; };
    rows.push_back({f(0), f(1), f(2), f(3), {f(4), f(5), f(6)}, n % 3 == 1 ? 0 : f(7)});
  }
  return rows;
}

void the_kernels_give_the_bits_of_the_sampler(CudaDevice& device, LatentShape shape, bool guided,
                                              float phi, Mode mode) {
  const std::vector<Row> rows = rows_of_every_column(7);
  const auto noisy = std::ranges::count_if(rows, [](const Row& row) { return row.c != 0; });
  const std::vector<float> start = numbers(shape.size(), 1);
  const std::vector<float> renoise = numbers(static_cast<std::size_t>(noisy) * shape.size(), 2);
  const std::vector<float> velocity = numbers((guided ? 2 : 1) * shape.size(), 3);
  const Guidance guidance{.scale = 7, .phi = phi};
  Silent observer;

  Sampler sampler(shape, guided);
  std::ranges::copy(start, sampler.x().begin());
  std::ranges::copy(velocity, sampler.velocity().begin());
  Nothing nothing;
  check(sampler.run(rows, guidance, renoise, nothing, observer));

  Loop loop(device, shape, guided, IoType::float32);
  device.upload(loop.velocity(), velocity.data(), velocity.size() * sizeof(float));
  Constant constant;
  check(loop.run(
      {.rows = rows, .guidance = guidance, .start = start, .renoise = renoise, .mode = mode},
      constant, observer));
  std::vector<float> found(shape.size());
  loop.download(found);
  check(std::ranges::equal(found, sampler.x().first(shape.size())));
}

void every_combination(CudaDevice& device) {
  for (const LatentShape shape : {LatentShape{1, 64, 216}, {2, 9, 70}, {3, 1, 1}, {1, 5, 129}})
    for (const bool guided : {false, true})
      for (const float phi : {0.0F, 0.75F}) {
        if (shape.channels == 1 && phi != 0) continue;  // one channel has no spread: 0/0
        for (const Mode mode : {Mode::replay, Mode::chain, Mode::enqueue})
          the_kernels_give_the_bits_of_the_sampler(device, shape, guided, phi, mode);
      }
}

void what_is_too_much_is_refused_and_the_device_works_on(CudaDevice& device) {
  check_throws<cuda::OutOfMemory>(
      [&] { static_cast<void>(device.allocate(device.memory().total + (1 << 20))); });
  the_kernels_give_the_bits_of_the_sampler(device, {1, 4, 8}, true, 0, Mode::replay);
}

}  // namespace
}  // namespace omni_rt::testing

int main() {
  using namespace omni_rt::testing;
  try {
    omni_rt::cuda::CudaDevice device(0, 0);
    every_combination(device);
    what_is_too_much_is_refused_and_the_device_works_on(device);
  } catch (const omni_rt::cuda::DeviceError& error) {
    std::fprintf(stderr, "%s\n", error.what());
    int count = 0;
    const bool there = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
    return there ? 1 : 77;
  }
}
