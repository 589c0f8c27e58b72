#include "step.h"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace omni_rt {
namespace {

constexpr std::size_t tile_frames = 64;  // per-frame statistics of a tile stay in registers and L1

/// Sums of (value − mean)² over channels for the frames [begin, end), into out.
template <typename Value>
void squared_deviation(std::size_t channels, std::size_t frames, std::size_t begin, std::size_t end,
                       Value value, std::array<float, tile_frames>& out) {
  std::array<float, tile_frames> mean{};
  for (std::size_t c = 0; c < channels; ++c)
    for (std::size_t f = begin; f < end; ++f) mean[f - begin] += value(c * frames + f);
  for (std::size_t f = begin; f < end; ++f) mean[f - begin] /= static_cast<float>(channels);
  out.fill(0);
  for (std::size_t c = 0; c < channels; ++c)
    for (std::size_t f = begin; f < end; ++f) {
      const float deviation = value(c * frames + f) - mean[f - begin];
      out[f - begin] += deviation * deviation;
    }
}

/// phi·std(v_cond)/std(v) + 1 − phi for each frame of a tile (the n − 1 of both cancels).
template <typename Conditional, typename Guided>
void rescale_factors(const LatentShape& shape, float phi, std::size_t begin, std::size_t end,
                     Conditional conditional, Guided guided,
                     std::array<float, tile_frames>& factor) {
  std::array<float, tile_frames> of_conditional;
  std::array<float, tile_frames> of_guided;
  squared_deviation(shape.channels, shape.frames, begin, end, conditional, of_conditional);
  squared_deviation(shape.channels, shape.frames, begin, end, guided, of_guided);
  for (std::size_t i = 0; i < end - begin; ++i)
    factor[i] = phi * std::sqrt(of_conditional[i] / of_guided[i]) + (1 - phi);
}

}  // namespace

void step_cpu(const Row& row, const Guidance& guidance, const LatentShape& shape,
              const StepBuffers& buffers) {
  assert(buffers.x.size() == shape.size());
  const bool guided = !buffers.v_uncond.empty();
  const bool rescaled = guided && guidance.phi != 0;
  for (std::size_t item = 0; item < shape.batch; ++item) {
    const std::size_t first = item * shape.clip();
    const auto conditional = [&](std::size_t i) { return buffers.v_cond[first + i]; };
    const auto velocity = [&](std::size_t i) {
      if (!guided) return buffers.v_cond[first + i];
      const float u = buffers.v_uncond[first + i];
      return u + guidance.scale * (buffers.v_cond[first + i] - u);
    };
    for (std::size_t begin = 0; begin < shape.frames; begin += tile_frames) {
      const std::size_t end = std::min(begin + tile_frames, shape.frames);
      std::array<float, tile_frames> factor;
      factor.fill(1);
      if (rescaled) rescale_factors(shape, guidance.phi, begin, end, conditional, velocity, factor);
      for (std::size_t c = 0; c < shape.channels; ++c)
        for (std::size_t f = begin; f < end; ++f) {
          const std::size_t i = c * shape.frames + f;
          const std::size_t at = first + i;
          const float x = buffers.x[at];
          const float h = row.p * x + row.q * (velocity(i) * factor[f - begin]);
          float next = row.a * x + row.b[0] * h;
          next += row.b[1] * buffers.h1[at];
          next += row.b[2] * buffers.h2[at];
          if (!buffers.z.empty()) next += row.c * buffers.z[at];
          buffers.h0[at] = h;
          buffers.x[at] = next;
          if (!buffers.x_copy.empty()) buffers.x_copy[at] = next;
        }
    }
  }
}

}  // namespace omni_rt
