#pragma once

#include <cuda_runtime_api.h>
#include <sys/types.h>

#include <source_location>
#include <vector>

#include "device.h"

namespace omni_rt::cuda {

/// Throws DeviceError, naming the call's place, unless `code` is success.
void check(cudaError_t code, std::source_location at = std::source_location::current());

/// A stream of a CUDA device, the caller's or one of its own.
class CudaDevice final : public Device {
 public:
  /// Throws DeviceError if there is no driver, it is too old, there is no such device, or this
  /// build has no kernels for it. `stream` 0 makes a stream, which the device then owns.
  CudaDevice(int ordinal, std::uintptr_t stream);
  CudaDevice(const CudaDevice&) = delete;
  CudaDevice& operator=(const CudaDevice&) = delete;
  ~CudaDevice() override;

  void enter() override;
  [[nodiscard]] std::uintptr_t stream() const override;
  [[nodiscard]] int dlpack_type() const override { return 2; }
  [[nodiscard]] int ordinal() const override { return ordinal_; }
  [[nodiscard]] std::string name() const override;
  [[nodiscard]] MemoryInfo memory() override;
  [[nodiscard]] void* allocate(std::size_t bytes) override;
  void release(void* memory) noexcept override;
  void upload(void* to, const void* from, std::size_t bytes) override;
  void download(void* to, const void* from, std::size_t bytes) override;
  void zero(void* memory, std::size_t bytes) override;
  void spread(const StepCall& call) override;
  void open_row(const StepCall& call) override;
  void step(const StepCall& call) override;
  void begin_capture() override;
  [[nodiscard]] std::unique_ptr<Graph> end_capture() override;
  void abandon_capture() noexcept override;
  void launch(Graph& graph) override;
  void mark(std::size_t number) override;
  void wait(std::size_t number) override;
  [[nodiscard]] double microseconds(std::size_t from, std::size_t to) override;
  void synchronise() override;

 private:
  /// As check, but says how much memory there was if that is what is missing.
  void check_memory(cudaError_t code, std::size_t wanted,
                    std::source_location at = std::source_location::current());
  [[nodiscard]] bool forked() const;

  int ordinal_;
  pid_t process_;  // CUDA does not survive a fork
  cudaStream_t stream_ = nullptr;
  bool owned_;
  std::vector<cudaEvent_t> marks_;
};

}  // namespace omni_rt::cuda
