#pragma once

#include <span>

#include "plan.h"

namespace omni_rt {

/// Buffers of one step; all views are borrowed and must not overlap.
struct StepBuffers {
  std::span<float> x;               // [batch, C, L], updated in place
  std::span<float> x_copy;          // same size, or empty: receives the updated x as well
  std::span<const float> v_cond;    // [batch, C, L]
  std::span<const float> v_uncond;  // same size, or empty: unguided
  std::span<float> h0;              // [batch, C, L]: receives h
  std::span<const float> h1, h2;    // [batch, C, L]: the two before
  std::span<const float> z;         // [batch, C, L], or empty where row.c = 0
};

/// Guidance, rescale, h and the update in one pass over the latents. fp32 throughout, terms added
/// in the order written in plan.h, never contracted, so that a NumPy executor gives the same bits
/// (with phi, to rounding). At most 36 B per element: memory bound. Allocates nothing.
void step_cpu(const Row& row, const Guidance& guidance, const LatentShape& shape,
              const StepBuffers& buffers);

}  // namespace omni_rt
