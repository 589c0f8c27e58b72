#pragma once

#include <cuda_runtime_api.h>

#include "device.h"

namespace omni_rt::cuda {

// The launchers take the stream last and never wait. Returned: what cudaGetLastError says.

/// engine_x = x, rounded to Io. 4 B read, up to 8 B written per element; one thread per element.
cudaError_t launch_spread(const StepCall& call, cudaStream_t stream);

/// current = next++ and t[] = rows[current].t. One block.
cudaError_t launch_open_row(const StepCall& call, cudaStream_t stream);

/// Guidance, rescale, ring and update in one pass; at most 36 B per element, memory bound. Blocks
/// of 32 frames × 8 channels, one thread per element; with phi, two warps of each add up their
/// frames' channels first, in step_cpu's order. Reference: step_cpu (core/step.h), to the bit.
cudaError_t launch_step(const StepCall& call, cudaStream_t stream);

/// Whether this build has code for the current device.
cudaError_t find_kernels();

}  // namespace omni_rt::cuda
