#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "element.h"

namespace omni_rt::cuda {

/// A device, its driver or its library refused something. One line: what, and what to do about it.
class DeviceError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Not enough memory on the device; nothing was allocated, and the device works on. `wanted` is 0
/// where nobody says how much it was: for graphs.
class OutOfMemory : public DeviceError {
 public:
  OutOfMemory(std::size_t wanted, std::size_t free, std::size_t total);
};

enum class IoType { float32, float16, bfloat16 };

[[nodiscard]] constexpr std::size_t bytes_of(IoType type) {
  return type == IoType::float32 ? 4 : 2;
}

/// Buffers of a step whose Io is known at run time only.
struct StepCall {
  IoType io = IoType::float32;
  void* engine_x = nullptr;
  const void* velocity = nullptr;
  StepPointers<float> rest{};  // its engine_x and velocity are not used

  template <typename Io>
  [[nodiscard]] StepPointers<Io> pointers() const {
    return {.state = rest.state,
            .x = rest.x,
            .engine_x = static_cast<Io*>(engine_x),
            .velocity = static_cast<const Io*>(velocity),
            .ring = rest.ring,
            .t = rest.t,
            .batch = rest.batch,
            .channels = rest.channels,
            .frames = rest.frames,
            .guided = rest.guided};
  }
};

/// Work of a stream, captured: launching it does all of it again.
class Graph {
 public:
  virtual ~Graph() = default;
};

struct MemoryInfo {
  std::size_t free = 0, total = 0;
};

/// One stream of one device, as much of it as the loop needs. Everything is ordered by the stream;
/// what waits says so. Methods throw DeviceError. One thread at a time.
class Device {
 public:
  virtual ~Device() = default;

  /// Called first by every thread that comes in. Refuses a child forked after initialisation.
  virtual void enter() = 0;
  [[nodiscard]] virtual std::uintptr_t stream() const = 0;  // what engines enqueue on
  [[nodiscard]] virtual int dlpack_type() const = 0;        // 1: processor, 2: CUDA
  [[nodiscard]] virtual int ordinal() const = 0;
  [[nodiscard]] virtual std::string name() const = 0;
  [[nodiscard]] virtual MemoryInfo memory() = 0;

  [[nodiscard]] virtual void* allocate(std::size_t bytes) = 0;  // zeros; throws OutOfMemory
  virtual void release(void* memory) noexcept = 0;
  virtual void upload(void* to, const void* from, std::size_t bytes) = 0;
  virtual void download(void* to, const void* from, std::size_t bytes) = 0;  // waits
  virtual void zero(void* memory, std::size_t bytes) = 0;

  /// The kernels: engine_x from x; current row and t from the table; the step itself.
  virtual void spread(const StepCall& call) = 0;
  virtual void open_row(const StepCall& call) = 0;
  virtual void step(const StepCall& call) = 0;

  /// Between these two nothing is run, and everything enqueued on the stream is kept.
  virtual void begin_capture() = 0;
  [[nodiscard]] virtual std::unique_ptr<Graph> end_capture() = 0;
  virtual void abandon_capture() noexcept = 0;
  virtual void launch(Graph& graph) = 0;

  /// Numbered marks in the stream, made when first used.
  virtual void mark(std::size_t number) = 0;
  virtual void wait(std::size_t number) = 0;
  [[nodiscard]] virtual double microseconds(std::size_t from, std::size_t to) = 0;
  virtual void synchronise() = 0;
};

/// Memory of a device; the device outlives it.
class Memory {
 public:
  Memory() = default;
  Memory(Device& device, std::size_t bytes)
      : device_(&device), data_(device.allocate(bytes)), bytes_(bytes) {}
  Memory(Memory&& other) noexcept { swap(other); }
  Memory& operator=(Memory&& other) noexcept {
    swap(other);
    return *this;
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    if (device_ != nullptr) device_->release(data_);
  }

  [[nodiscard]] void* data() const { return data_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }
  template <typename T>
  [[nodiscard]] T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void swap(Memory& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  Device* device_ = nullptr;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace omni_rt::cuda
