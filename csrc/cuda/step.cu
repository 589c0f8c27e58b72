#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "step.h"

namespace omni_rt::cuda {
namespace {

constexpr unsigned tile_frames = 32, tile_channels = 8, spread_threads = 256;

template <typename Io>
__global__ void spread_kernel(StepPointers<Io> at) {
  const std::size_t i = std::size_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < at.size()) spread_element(at, i);
}

__global__ void open_row_kernel(LoopState* state, float* t, std::size_t rows) {
  __shared__ float time;
  if (threadIdx.x == 0) {
    state->current = state->next++;
    time = state->rows[state->current].t;
  }
  __syncthreads();
  for (std::size_t r = threadIdx.x; r < rows; r += blockDim.x) t[r] = time;
}

template <typename Io>
__global__ void step_kernel(StepPointers<Io> at) {
  __shared__ float of_conditional[tile_frames], of_guided[tile_frames];
  const std::size_t frame = std::size_t{blockIdx.x} * tile_frames + threadIdx.x;
  const std::size_t channel = std::size_t{blockIdx.y} * tile_channels + threadIdx.y;
  const std::size_t item = blockIdx.z * at.clip();
  const bool inside = frame < at.frames && channel < at.channels;
  float factor = 1;
  if (at.guided && at.state->phi != 0) {  // the same for all threads
    if (frame < at.frames && threadIdx.y == 0)
      of_conditional[threadIdx.x] = conditional_deviation(at, item + frame);
    if (frame < at.frames && threadIdx.y == 1)
      of_guided[threadIdx.x] = guided_deviation(at, item + frame);
    __syncthreads();
    factor = rescale_factor(at.state->phi, of_conditional[threadIdx.x], of_guided[threadIdx.x]);
  }
  if (inside) step_element(at, item + channel * at.frames + frame, factor);
}

unsigned blocks(std::size_t items, unsigned per_block) {
  return static_cast<unsigned>((items + per_block - 1) / per_block);
}

template <typename Io>
void spread(const StepCall& call, cudaStream_t stream) {
  const auto at = call.pointers<Io>();
  spread_kernel<<<blocks(at.size(), spread_threads), spread_threads, 0, stream>>>(at);
}

template <typename Io>
void step(const StepCall& call, cudaStream_t stream) {
  const auto at = call.pointers<Io>();
  const dim3 grid(blocks(at.frames, tile_frames), blocks(at.channels, tile_channels),
                  static_cast<unsigned>(at.batch));
  step_kernel<<<grid, dim3(tile_frames, tile_channels), 0, stream>>>(at);
}

template <typename Float32, typename Float16, typename BFloat16>
void by_type(IoType type, Float32 float32, Float16 float16, BFloat16 bfloat16) {
  switch (type) {
    case IoType::float32:
      return float32();
    case IoType::float16:
      return float16();
    case IoType::bfloat16:
      return bfloat16();
  }
}

}  // namespace

cudaError_t launch_spread(const StepCall& call, cudaStream_t stream) {
  by_type(
      call.io, [&] { spread<float>(call, stream); }, [&] { spread<__half>(call, stream); },
      [&] { spread<__nv_bfloat16>(call, stream); });
  return cudaGetLastError();
}

cudaError_t launch_open_row(const StepCall& call, cudaStream_t stream) {
  open_row_kernel<<<1, 128, 0, stream>>>(call.rest.state, call.rest.t, call.rest.rows());
  return cudaGetLastError();
}

cudaError_t launch_step(const StepCall& call, cudaStream_t stream) {
  by_type(
      call.io, [&] { step<float>(call, stream); }, [&] { step<__half>(call, stream); },
      [&] { step<__nv_bfloat16>(call, stream); });
  return cudaGetLastError();
}

cudaError_t find_kernels() {
  cudaFuncAttributes attributes{};
  return cudaFuncGetAttributes(&attributes, open_row_kernel);
}

}  // namespace omni_rt::cuda
