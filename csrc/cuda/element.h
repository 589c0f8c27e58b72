#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>

#ifdef __CUDACC__
#define OMNI_RT_HOST_DEVICE __host__ __device__
#else
#define OMNI_RT_HOST_DEVICE
#endif

namespace omni_rt::cuda {

/// A row of a plan (core/plan.h) as a kernel reads it. `noise` says which [batch, C, L] of the
/// renoising buffer is z; −1 where c = 0.
struct DeviceRow {
  float t = 0, p = 0, q = 1, a = 1, b0 = 0, b1 = 0, b2 = 0, c = 0;
  std::int32_t noise = -1;
};

/// What may differ from run to run without a new graph. Lies in device memory, where every row
/// finds its coefficients by `current`; written by the host before a run.
struct LoopState {
  const DeviceRow* rows = nullptr;
  const float* noise = nullptr;
  float scale = 1, phi = 0;
  std::int32_t next = 0, current = 0;
};

/// Buffers of one step, in device memory. Io is what the engine reads and writes; the state and the
/// ring of directions are fp32 whatever it is.
template <typename Io>
struct StepPointers {
  LoopState* state;
  float* x;            // [batch, C, L]
  Io* engine_x;        // [batch or 2·batch, C, L]: receives the updated x, rounded to Io
  const Io* velocity;  // of engine_x's shape: conditional rows first
  float* ring;         // [3, batch, C, L]: row n writes slot n mod 3
  float* t;            // [engine rows]
  std::size_t batch, channels, frames;
  bool guided;

  OMNI_RT_HOST_DEVICE std::size_t clip() const { return channels * frames; }
  OMNI_RT_HOST_DEVICE std::size_t size() const { return batch * clip(); }
  OMNI_RT_HOST_DEVICE std::size_t rows() const { return guided ? 2 * batch : batch; }
};

template <typename Io>
OMNI_RT_HOST_DEVICE float conditional(const StepPointers<Io>& at, std::size_t i) {
  return static_cast<float>(at.velocity[i]);
}

template <typename Io>
OMNI_RT_HOST_DEVICE float guided_velocity(const StepPointers<Io>& at, std::size_t i) {
  const float c = conditional(at, i);
  if (!at.guided) return c;
  const float u = static_cast<float>(at.velocity[at.size() + i]);
  return u + at.state->scale * (c - u);
}

/// Sum of (value(i) − mean)² over the channels of one frame, first to last as step_cpu adds them.
template <typename Value>
OMNI_RT_HOST_DEVICE float squared_deviation(std::size_t first, std::size_t channels,
                                            std::size_t frames, Value value) {
  float mean = 0;
  for (std::size_t c = 0; c < channels; ++c) mean += value(first + c * frames);
  mean /= static_cast<float>(channels);
  float sum = 0;
  for (std::size_t c = 0; c < channels; ++c) {
    const float deviation = value(first + c * frames) - mean;
    sum += deviation * deviation;
  }
  return sum;
}

template <typename Io>
OMNI_RT_HOST_DEVICE float conditional_deviation(const StepPointers<Io>& at, std::size_t first) {
  return squared_deviation(first, at.channels, at.frames,
                           [&](std::size_t i) { return conditional(at, i); });
}

template <typename Io>
OMNI_RT_HOST_DEVICE float guided_deviation(const StepPointers<Io>& at, std::size_t first) {
  return squared_deviation(first, at.channels, at.frames,
                           [&](std::size_t i) { return guided_velocity(at, i); });
}

OMNI_RT_HOST_DEVICE inline float rescale_factor(float phi, float of_conditional, float of_guided) {
  return phi * sqrtf(of_conditional / of_guided) + (1 - phi);
}

/// The update of one element, factor being 1 or its frame's rescale factor. The operations are
/// step_cpu's in its order; compiled without contraction, the bits are the same.
template <typename Io>
OMNI_RT_HOST_DEVICE void step_element(const StepPointers<Io>& at, std::size_t i, float factor) {
  const LoopState& state = *at.state;
  const DeviceRow& row = state.rows[state.current];
  const std::size_t size = at.size();
  const auto slot = static_cast<std::size_t>(state.current % 3);
  const float x = at.x[i];
  const float h = row.p * x + row.q * (guided_velocity(at, i) * factor);
  float next = row.a * x + row.b0 * h;
  next += row.b1 * at.ring[(slot + 2) % 3 * size + i];
  next += row.b2 * at.ring[(slot + 1) % 3 * size + i];
  if (row.noise >= 0) next += row.c * state.noise[static_cast<std::size_t>(row.noise) * size + i];
  at.ring[slot * size + i] = h;
  at.x[i] = next;
  at.engine_x[i] = static_cast<Io>(next);
  if (at.guided) at.engine_x[size + i] = static_cast<Io>(next);
}

/// The engine's input before the first row.
template <typename Io>
OMNI_RT_HOST_DEVICE void spread_element(const StepPointers<Io>& at, std::size_t i) {
  at.engine_x[i] = static_cast<Io>(at.x[i]);
  if (at.guided) at.engine_x[at.size() + i] = static_cast<Io>(at.x[i]);
}

}  // namespace omni_rt::cuda
