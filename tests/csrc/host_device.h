#pragma once

#include <bit>
#include <chrono>
#include <cstring>
#include <deque>
#include <functional>
#include <utility>
#include <vector>

#include "cuda/device.h"

namespace omni_rt::testing {

/// bf16 in plain C++: widened exactly, rounded to the nearest even. NaN is not needed here.
class BFloat16 {
 public:
  BFloat16() = default;
  explicit BFloat16(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    bits_ = static_cast<std::uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
  }
  explicit operator float() const { return std::bit_cast<float>(std::uint32_t{bits_} << 16); }

 private:
  std::uint16_t bits_ = 0;
};

/// The processor as a device with a stream: work is kept until somebody waits for it, so whatever
/// counts on its being done early fails. Runs the kernels' own functions, element by element.
class HostDevice : public cuda::Device {
 public:
  using Work = std::function<void()>;

  explicit HostDevice(std::size_t memory_bytes = std::size_t{1} << 30) : total_(memory_bytes) {}

  /// What an engine does with the stream it is given.
  void submit(Work work) {
    if (capturing_) {
      recorded_.push_back(std::move(work));
    } else {
      queue_.push_back(std::move(work));
    }
  }

  void enter() override {
    if (forked) throw cuda::DeviceError("this process was forked after CUDA was initialised");
  }
  std::uintptr_t stream() const override { return reinterpret_cast<std::uintptr_t>(this); }
  int dlpack_type() const override { return 1; }
  int ordinal() const override { return 0; }
  std::string name() const override { return "processor"; }
  cuda::MemoryInfo memory() override { return {.free = total_ - used_, .total = total_}; }

  void* allocate(std::size_t bytes) override {
    refuse_while_capturing();
    if (bytes > total_ - used_) throw cuda::OutOfMemory(bytes, total_ - used_, total_);
    used_ += bytes;
    ++allocations;
    blocks_.emplace_back(bytes, std::byte{0});
    return blocks_.back().data();
  }
  void release(void* memory) noexcept override {
    std::erase_if(blocks_, [&](const std::vector<std::byte>& block) {
      if (block.data() != memory) return false;
      used_ -= block.size();
      return true;
    });
  }
  void upload(void* to, const void* from, std::size_t bytes) override {
    const auto* data = static_cast<const std::byte*>(from);
    submit([to, copy = std::vector<std::byte>(data, data + bytes)] {
      std::memcpy(to, copy.data(), copy.size());
    });
  }
  void download(void* to, const void* from, std::size_t bytes) override {
    synchronise();
    std::memcpy(to, from, bytes);
  }
  void zero(void* memory, std::size_t bytes) override {
    submit([=] { std::memset(memory, 0, bytes); });
  }

  void spread(const cuda::StepCall& call) override {
    by_type(call, [this](const auto& at) {
      submit([=] {
        for (std::size_t i = 0; i < at.size(); ++i) cuda::spread_element(at, i);
      });
    });
  }
  void open_row(const cuda::StepCall& call) override {
    submit([at = call.rest] {
      at.state->current = at.state->next++;
      const float time = at.state->rows[at.state->current].t;
      for (std::size_t r = 0; r < at.rows(); ++r) at.t[r] = time;
    });
  }
  void step(const cuda::StepCall& call) override {
    by_type(call, [this](const auto& at) { submit([=] { step_all(at); }); });
  }

  void begin_capture() override {
    ++captures;
    capturing_ = true;
    recorded_.clear();
  }
  std::unique_ptr<cuda::Graph> end_capture() override {
    capturing_ = false;
    if (std::exchange(broken_, false)) throw cuda::DeviceError("no graph can hold that");
    return std::make_unique<Recorded>(std::move(recorded_));
  }
  void abandon_capture() noexcept override {
    capturing_ = broken_ = false;
    recorded_.clear();
  }
  void launch(cuda::Graph& graph) override {
    if (launches == fail_launch) throw cuda::OutOfMemory(0, memory().free, total_);
    ++launches;
    for (const Work& work : static_cast<Recorded&>(graph).works) submit(work);
  }
  void mark(std::size_t number) override {
    marks_.resize(std::max(marks_.size(), number + 1));
    marks_[number].reached = false;
    submit([this, number] { marks_[number] = {.reached = true, .when = Clock::now()}; });
  }
  void wait(std::size_t number) override {
    while (!marks_[number].reached) run_next();
    longest_queue = std::max(longest_queue, queue_.size());
  }
  double microseconds(std::size_t from, std::size_t to) override {
    return std::chrono::duration<double, std::micro>(marks_[to].when - marks_[from].when).count();
  }
  void synchronise() override {
    refuse_while_capturing();
    while (!queue_.empty()) run_next();
  }

  bool forked = false;
  std::size_t allocations = 0, captures = 0, launches = 0, longest_queue = 0;
  std::size_t fail_launch = ~std::size_t{0};

 private:
  using Clock = std::chrono::steady_clock;
  struct Mark {
    bool reached = false;
    Clock::time_point when;
  };
  struct Recorded final : cuda::Graph {
    explicit Recorded(std::vector<Work> recorded) : works(std::move(recorded)) {}
    std::vector<Work> works;
  };

  template <typename Action>
  static void by_type(const cuda::StepCall& call, Action action) {
    if (call.io == cuda::IoType::float32) return action(call.pointers<float>());
    if (call.io == cuda::IoType::bfloat16) return action(call.pointers<BFloat16>());
    throw cuda::DeviceError("the processor has no fp16 here");
  }
  template <typename Io>
  static void step_all(const cuda::StepPointers<Io>& at) {
    for (std::size_t item = 0; item < at.size(); item += at.clip())
      for (std::size_t frame = 0; frame < at.frames; ++frame) {
        const std::size_t first = item + frame;
        const float factor =
            at.guided && at.state->phi != 0
                ? cuda::rescale_factor(at.state->phi, conditional_deviation(at, first),
                                       guided_deviation(at, first))
                : 1;
        for (std::size_t c = 0; c < at.channels; ++c)
          cuda::step_element(at, first + c * at.frames, factor);
      }
  }
  void run_next() {
    const Work work = std::move(queue_.front());
    queue_.pop_front();
    work();
  }
  void refuse_while_capturing() {
    if (!capturing_) return;
    broken_ = true;
    throw cuda::DeviceError("not while the stream is captured");
  }

  std::size_t total_, used_ = 0;
  std::deque<std::vector<std::byte>> blocks_;
  std::deque<Work> queue_;
  std::vector<Work> recorded_;
  std::vector<Mark> marks_;
  bool capturing_ = false, broken_ = false;
};

}  // namespace omni_rt::testing
