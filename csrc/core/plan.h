#pragma once

#include <array>
#include <cstddef>

namespace omni_rt {

/// One evaluation of the velocity and the update that follows it (a row of a plan):
///   h  = p·x + q·v                         pushed into a ring of three, newest first
///   x' = a·x + b0·h0 + b1·h1 + b2·h2 + c·z    z is drawn only where c ≠ 0
struct Row {
  float t = 0, p = 0, q = 1, a = 1;
  std::array<float, 3> b{};
  float c = 0;
};

/// v = v_uncond + scale·(v_cond − v_uncond), then optionally rescaled by phi towards the
/// conditional velocity's standard deviation over channels. Ignored by unguided samplers.
struct Guidance {
  float scale = 1;
  float phi = 0;
};

/// Latents of a batch, row-major [batch, channels, frames].
struct LatentShape {
  std::size_t batch = 1, channels = 1, frames = 1;

  [[nodiscard]] constexpr std::size_t clip() const { return channels * frames; }
  [[nodiscard]] constexpr std::size_t size() const { return batch * clip(); }
};

}  // namespace omni_rt
