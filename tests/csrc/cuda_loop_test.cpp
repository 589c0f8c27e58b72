// Laws of the loop over a stream, on a device that is the processor: the arithmetic of the kernels
// is the CPU step's to the bit, and the order of captures, launches and waits is what loop.h says.

#include <algorithm>
#include <functional>
#include <random>
#include <span>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"
#include "core/sampler.h"
#include "cuda/loop.h"
#include "host_device.h"

namespace omni_rt::testing {
namespace {

using cuda::DeviceError;
using cuda::IoType;
using cuda::Loop;
using cuda::Mode;
using cuda::OutOfMemory;
using cuda::Run;

/// 70 frames and 9 channels: whole tiles of a kernel and parts of them.
constexpr LatentShape shape{.batch = 2, .channels = 9, .frames = 70};

std::vector<float> numbers(std::size_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::vector<float> values(count);
  for (float& value : values)
    value = static_cast<float>(static_cast<int>(random() % 2001) - 1000) / 300.0F;
  return values;
}

/// Rows that use every column; rows 1 and 4 want no noise.
std::vector<Row> all_columns(std::size_t count) {
  const std::vector<float> values = numbers(8 * count, 5);
  std::vector<Row> rows;
  for (std::size_t n = 0; n < count; ++n) {
    const auto f = [&](std::size_t i) { return values[8 * n + i] / 4; };
    rows.push_back({f(0), f(1), f(2), f(3), {f(4), f(5), f(6)}, n % 3 == 1 ? 0 : f(7)});
  }
  return rows;
}

std::vector<float> noise_for(const std::vector<Row>& rows, std::size_t size) {
  const auto noisy = std::ranges::count_if(rows, [](const Row& row) { return row.c != 0; });
  return numbers(static_cast<std::size_t>(noisy) * size, 9);
}

/// A velocity of x, t, place and branch, the same for the loop and the sampler.
template <typename Io>
void evaluate(const Io* x, const float* t, Io* v, std::size_t rows, std::size_t clip) {
  for (std::size_t i = 0; i < rows * clip; ++i)
    v[i] = static_cast<Io>(0.5F * static_cast<float>(x[i]) + t[i / clip] +
                           0.125F * static_cast<float>(i % 13) + (i < rows * clip / 2 ? 0.3F : 0));
}

template <typename Io>
class Decay final : public cuda::StreamEngine {
 public:
  Decay(HostDevice& device, const Loop& loop) : device_(device), loop_(loop) {}
  void enqueue(std::uintptr_t stream) override {
    check(stream == device_.stream());
    ++enqueued;
    before();
    device_.submit([this] {
      evaluate(static_cast<const Io*>(loop_.x()), static_cast<const float*>(loop_.t()),
               static_cast<Io*>(loop_.velocity()), loop_.rows(), loop_.shape().clip());
    });
  }
  std::size_t enqueued = 0;
  std::function<void()> before = [] {};

 private:
  HostDevice& device_;
  const Loop& loop_;
};

class SamplerDecay final : public StepEngine {
 public:
  explicit SamplerDecay(Sampler& sampler) : sampler_(sampler) {}
  void evaluate() override {
    testing::evaluate(sampler_.x().data(), sampler_.t().data(), sampler_.velocity().data(),
                      sampler_.rows(), sampler_.shape().clip());
  }

 private:
  Sampler& sampler_;
};

class Watcher : public Observer {
 public:
  void on_row(std::size_t done, std::size_t total) override {
    told.push_back(done);
    rows_total = total;
    when_told(done);
  }
  bool cancelled() override { return told.size() >= cancel_after; }
  std::vector<std::size_t> told;
  std::size_t rows_total = 0, cancel_after = ~std::size_t{0};
  std::function<void(std::size_t)> when_told = [](std::size_t) {};
};

/// A loop, its engine, a plan and noise.
template <typename Io = float>
struct Setting {
  explicit Setting(bool guided = true, std::size_t rows = 6, LatentShape of = shape,
                   IoType io = IoType::float32)
      : loop(device, of, guided, io),
        plan(all_columns(rows)),
        start(numbers(of.size(), 3)),
        renoise(noise_for(plan, of.size())) {}

  Run wanted(Mode mode = Mode::replay) {
    return {.rows = plan, .guidance = guidance, .start = start, .renoise = renoise, .mode = mode};
  }
  bool run(Mode mode = Mode::replay) { return loop.run(wanted(mode), engine, watcher); }
  std::vector<float> latents() {
    std::vector<float> found(loop.shape().size());
    loop.download(found);
    return found;
  }

  HostDevice device;
  Loop loop;
  Decay<Io> engine{device, loop};
  Watcher watcher;
  Guidance guidance{.scale = 2.5F, .phi = 0.75F};
  std::vector<Row> plan;
  std::vector<float> start, renoise;
};

std::vector<float> on_the_processor(Setting<>& setting, bool guided) {
  Sampler sampler(setting.loop.shape(), guided);
  std::ranges::copy(setting.start, sampler.x().begin());
  SamplerDecay engine(sampler);
  Watcher watcher;
  check(sampler.run(setting.plan, setting.guidance, setting.renoise, engine, watcher));
  const auto x = sampler.x().first(setting.start.size());
  return {x.begin(), x.end()};
}

void every_mode_gives_the_bits_of_the_sampler() {
  for (const LatentShape of : {shape, {.batch = 1, .channels = 2, .frames = 1}})
    for (const bool guided : {false, true})
      for (const float phi : {0.0F, 0.75F})
        for (const Mode mode : {Mode::replay, Mode::chain, Mode::enqueue, Mode::ahead}) {
          Setting<> setting(guided, 6, of);
          setting.guidance.phi = phi;
          check(setting.run(mode));
          check(setting.latents() == on_the_processor(setting, guided));
        }
}

/// Hands over the velocity that another loop's engine computed.
struct SameVelocity final : cuda::StreamEngine {
  SameVelocity(HostDevice& on, const BFloat16* given, void* velocity)
      : device(on), from(given), to(static_cast<float*>(velocity)) {}
  void enqueue(std::uintptr_t) override {
    device.submit([this] {
      for (std::size_t i = 0; i < 2 * shape.size(); ++i) to[i] = static_cast<float>(from[i]);
    });
  }
  HostDevice& device;
  const BFloat16* from;
  float* to;
};

void the_engine_type_rounds_what_the_engine_sees_and_nothing_else() {
  Setting<BFloat16> narrow(true, 1, shape, IoType::bfloat16);
  check(narrow.run());
  const std::vector<float> found = narrow.latents();
  const auto* x = static_cast<const BFloat16*>(narrow.loop.x());
  for (std::size_t i = 0; i < 2 * shape.size(); ++i)
    check(static_cast<float>(x[i]) == static_cast<float>(BFloat16(found[i % shape.size()])));
  Setting<> wide(true, 1);
  SameVelocity engine(wide.device, static_cast<const BFloat16*>(narrow.loop.velocity()),
                      wide.loop.velocity());
  check(wide.loop.run(wide.wanted(), engine, wide.watcher));
  check(wide.latents() == found);
}

void a_step_is_captured_once_and_launched_for_every_row() {
  Setting<> setting;
  check(setting.run() && setting.run());
  check(setting.engine.enqueued == 2);  // once to warm up, once while captured
  check(setting.device.captures == 1 && setting.device.launches == 12);
  check(setting.loop.graphs() == 1);
}

/// What goes on after a chain: keeps its first number.
struct Decoder final : cuda::StreamEngine {
  Decoder(HostDevice& on, const Loop& of) : device(on), loop(of) {}
  void enqueue(std::uintptr_t) override {
    // A library's first call takes memory, which no capture can hold.
    if (enqueued++ == 0) device.release(device.allocate(8));
    device.submit([this] { first = static_cast<const float*>(loop.latents())[0]; });
  }
  HostDevice& device;
  const Loop& loop;
  std::size_t enqueued = 0;
  float first = 0;
};

void a_chain_is_one_launch_and_goes_on_after_its_rows() {
  Setting<> setting;
  Decoder decoder(setting.device, setting.loop);
  Run run = setting.wanted(Mode::chain);
  run.finish = &decoder;
  run.finish_key = 1;
  check(setting.loop.run(run, setting.engine, setting.watcher));
  check(setting.device.launches == 1 && decoder.first == setting.latents()[0]);
  check(decoder.enqueued == 2);  // once to warm up, once while captured
  check(setting.watcher.told == std::vector<std::size_t>{6});
  check(setting.run(Mode::chain) && setting.loop.graphs() == 2);  // without the decoder: another
}

void a_chain_goes_on_with_the_decoder_it_is_given() {
  Setting<> setting;
  Decoder one(setting.device, setting.loop);
  Decoder other(setting.device, setting.loop);
  Run run = setting.wanted(Mode::chain);
  for (Decoder* decoder : {&one, &other, &one}) {
    decoder->first = 0;
    run.finish = decoder;
    run.finish_key = decoder == &one ? 1 : 2;
    check(setting.loop.run(run, setting.engine, setting.watcher));
    check(decoder->first == setting.latents()[0]);
  }
  check(setting.device.captures == 2 && setting.loop.graphs() == 2);
  run.finish_key = 0;
  check_throws<std::invalid_argument>(
      [&] { setting.loop.run(run, setting.engine, setting.watcher); });
}

void guidance_plan_and_noise_need_no_new_graph() {
  Setting<> setting;
  check(setting.run());
  setting.guidance = {.scale = 4, .phi = 0};
  setting.plan = all_columns(9);
  setting.start = numbers(shape.size(), 11);
  setting.renoise = noise_for(setting.plan, shape.size());
  check(setting.run());
  check(setting.device.captures == 1);
  check(setting.latents() == on_the_processor(setting, true));
}

void a_run_like_one_before_allocates_nothing() {
  Setting<> setting;
  check(setting.run());
  const std::size_t before = setting.device.allocations;
  check(setting.run());
  setting.plan = all_columns(4);
  setting.renoise = noise_for(setting.plan, shape.size());
  check(setting.run() && setting.device.allocations == before);
}

void every_row_is_told_in_order_once_it_is_done() {
  Setting<> setting(true, 7);
  check(setting.run());
  check(setting.watcher.told == std::vector<std::size_t>{1, 2, 3, 4, 5, 6, 7});
  check(setting.watcher.rows_total == 7);
}

void a_row_is_on_the_stream_while_another_runs() {
  Setting<> setting(true, 7);
  std::vector<std::size_t> launched;
  setting.watcher.when_told = [&](std::size_t) { launched.push_back(setting.device.launches); };
  check(setting.run());
  check(launched == std::vector<std::size_t>{2, 3, 4, 5, 6, 7, 7});
}

void ahead_all_rows_are_on_the_stream_before_one_is_waited_for() {
  Setting<> setting(true, 7);
  std::size_t launched = 0;
  setting.watcher.when_told = [&](std::size_t) { launched = setting.device.launches; };
  Run run = setting.wanted(Mode::ahead);
  run.profile = true;
  check(setting.loop.run(run, setting.engine, setting.watcher));
  check(launched == 7 && setting.watcher.told == std::vector<std::size_t>{7});
  check(setting.device.longest_queue == 0);  // no row was waited for by itself
  check(setting.loop.row_times().size() == 7);
  check(setting.run(Mode::replay) && setting.device.captures == 1);  // the same graph
}

void whoever_cancels_waits_for_one_row() {
  for (const std::size_t after : {0, 1, 3}) {
    Setting<> setting;
    setting.watcher.cancel_after = after;
    check(!setting.run());
    check(setting.device.launches == (after == 0 ? 0 : after + 1));
    setting.watcher = {};
    check(setting.run() && setting.latents() == on_the_processor(setting, true));
  }
}

void an_engine_that_fails_leaves_a_usable_loop() {
  for (const std::size_t at : {1, 2}) {  // while it warms up, while it is captured
    for (const Mode mode : {Mode::replay, Mode::chain}) {
      Setting<> setting;
      setting.engine.before = [&] {
        if (setting.engine.enqueued == at) throw std::domain_error("engine");
      };
      check_throws<std::domain_error>([&] { setting.run(mode); });
      check(setting.loop.graphs() == 0);
      setting.engine.before = [] {};
      check(setting.run(mode) && setting.latents() == on_the_processor(setting, true));
    }
  }
}

void an_engine_that_no_graph_can_hold_is_an_error_and_no_more() {
  Setting<> setting;
  setting.engine.before = [&] {
    if (setting.engine.enqueued == 2) setting.device.synchronise();
  };
  check_throws<DeviceError>([&] { setting.run(); });
  check(setting.run() && setting.latents() == on_the_processor(setting, true));
}

void an_observer_that_throws_leaves_a_usable_loop() {
  Setting<> setting;
  setting.watcher.when_told = [](std::size_t done) {
    if (done == 3) throw std::domain_error("observer");
  };
  check_throws<std::domain_error>([&] { setting.run(); });
  setting.watcher = {};
  check(setting.run() && setting.latents() == on_the_processor(setting, true));
}

void running_out_of_memory_in_flight_leaves_a_usable_loop() {
  Setting<> setting;
  setting.device.fail_launch = 3;
  check_throws<OutOfMemory>([&] { setting.run(); });
  setting.device.fail_launch = ~std::size_t{0};
  check(setting.run() && setting.latents() == on_the_processor(setting, true));
}

void what_is_missing_is_said() {
  HostDevice device(std::size_t{1} << 20);
  const LatentShape large{.batch = 1, .channels = 1024, .frames = 512};
  try {
    const Loop loop(device, large, true, IoType::float32);
    check(false);
  } catch (const OutOfMemory& error) {
    check(std::string(error.what())
              .find("2.0 MiB wanted, 1.0 MiB of 1.0 MiB free, 1.0 MiB "
                    "missing") != std::string::npos);
  }
  check(device.memory().free == device.memory().total);
}

void what_nobody_counts_is_not_said() {
  const std::string said = OutOfMemory(0, std::size_t{3} << 20, std::size_t{8} << 20).what();
  check(said.starts_with("out of device memory: 3.0 MiB of 8.0 MiB free: close"));
}

void a_longer_table_that_does_not_fit_leaves_a_usable_loop() {
  Setting<> setting;
  HostDevice device(setting.loop.bytes() + 200'000);
  Loop loop(device, shape, true, IoType::float32);
  Decay<float> engine(device, loop);
  const std::vector<Row> longest(8'000, Row{.b = {-0.01F, 0, 0}});
  const Run run{.rows = longest, .guidance = {}, .start = setting.start, .renoise = {}};
  check_throws<OutOfMemory>([&] { loop.run(run, engine, setting.watcher); });
  const Run shorter{
      .rows = std::span(longest).first(5), .guidance = {}, .start = setting.start, .renoise = {}};
  check(loop.run(shorter, engine, setting.watcher));
}

void a_running_loop_refuses_a_second_thread() {
  Setting<> setting;
  bool refused = false;
  setting.watcher.when_told = [&](std::size_t done) {
    if (done != 2) return;
    std::thread([&] {
      Watcher watcher;
      try {
        setting.loop.run(setting.wanted(), setting.engine, watcher);
      } catch (const DeviceError&) {
        refused = true;
      }
    }).join();
  };
  check(setting.run() && refused);
  check(setting.latents() == on_the_processor(setting, true));
}

void a_forked_child_is_refused() {
  Setting<> setting;
  setting.device.forked = true;
  check_throws<DeviceError>([&] { setting.run(); });
  setting.device.forked = false;
  check(setting.run());
}

void sizes_that_do_not_fit_are_refused_before_anything_runs() {
  Setting<> setting;
  Run run = setting.wanted();
  run.renoise = run.renoise.first(shape.size());
  check_throws<std::invalid_argument>(
      [&] { setting.loop.run(run, setting.engine, setting.watcher); });
  run = setting.wanted();
  run.start = run.start.first(3);
  check_throws<std::invalid_argument>(
      [&] { setting.loop.run(run, setting.engine, setting.watcher); });
  setting.plan = all_columns(17);
  setting.renoise = noise_for(setting.plan, shape.size());
  check_throws<std::invalid_argument>([&] { setting.run(Mode::chain); });
  check(setting.engine.enqueued == 0);
  check_throws<std::invalid_argument>(
      [&] { const Loop empty(setting.device, {.batch = 0}, true, IoType::float32); });
}

void a_plan_of_no_rows_changes_nothing() {
  for (const Mode mode : {Mode::replay, Mode::chain, Mode::enqueue}) {
    Setting<> setting(true, 0);
    check(setting.run(mode) && setting.latents() == setting.start);
    check(setting.engine.enqueued == 0 && setting.watcher.told.empty());
  }
}

void forgotten_graphs_are_captured_again() {
  Setting<> setting;
  check(setting.run());
  setting.loop.forget_graphs();
  check(setting.loop.graphs() == 0 && setting.run() && setting.device.captures == 2);
}

void a_profiled_run_says_where_the_time_of_every_row_went() {
  Setting<> setting;
  Run run = setting.wanted();
  run.profile = true;
  check(setting.loop.run(run, setting.engine, setting.watcher));
  const auto& times = setting.loop.row_times();
  check(times.size() == 6 && times[0].gap_us == 0);
  check(std::ranges::all_of(times, [](const auto& t) { return t.row_us > 0 && t.gap_us >= 0; }));
}

/// Keeps two clocks instead of taking time: a launch takes the host 30 µs, its work the device 100.
class ClockedDevice final : public HostDevice {
 public:
  void launch(cuda::Graph& graph) override {
    HostDevice::launch(graph);
    host_us += 30;
    const double begin = std::max(host_us, free_us_);
    if (free_us_ > 0) idle_us += begin - free_us_;
    free_us_ = begin + work_us;
  }
  void mark(std::size_t number) override {
    HostDevice::mark(number);
    reached_us_.resize(std::max(reached_us_.size(), number + 1));
    reached_us_[number] = std::max(host_us, free_us_);
  }
  void wait(std::size_t number) override {
    HostDevice::wait(number);
    host_us = std::max(host_us, reached_us_[number]);
  }
  double microseconds(std::size_t from, std::size_t to) override {
    return reached_us_[to] - reached_us_[from];
  }
  static constexpr double work_us = 100;
  double host_us = 0, idle_us = 0;  // idle: between the device's launches

 private:
  double free_us_ = 0;
  std::vector<double> reached_us_;
};

void rows_that_were_all_on_the_stream_show_what_others_waited_for_their_launch() {
  for (const Mode mode : {Mode::replay, Mode::ahead}) {
    ClockedDevice device;
    Loop loop(device, shape, true, IoType::float32);
    Decay<float> engine(device, loop);
    Watcher slow;
    slow.when_told = [&](std::size_t) { device.host_us += 250; };
    const std::vector<float> start = numbers(shape.size(), 3);
    const std::vector<Row> rows(9, Row{.b = {-0.1F, 0, 0}});
    check(loop.run({.rows = rows,
                    .guidance = {},
                    .start = start,
                    .renoise = {},
                    .mode = mode,
                    .profile = true},
                   engine, slow));
    double gaps = 0;
    double beyond_work = 0;
    for (const cuda::RowTime& row : std::span(loop.row_times()).subspan(1)) {
      gaps += row.gap_us;
      beyond_work += row.gap_us + row.row_us - ClockedDevice::work_us;
      check(mode == Mode::replay || row.row_us == ClockedDevice::work_us);
    }
    check(beyond_work == device.idle_us);
    check(mode == Mode::ahead ? device.idle_us == 0 : gaps < device.idle_us);
  }
}

}  // namespace
}  // namespace omni_rt::testing

int main() {
  using namespace omni_rt::testing;
  every_mode_gives_the_bits_of_the_sampler();
  the_engine_type_rounds_what_the_engine_sees_and_nothing_else();
  a_step_is_captured_once_and_launched_for_every_row();
  a_chain_is_one_launch_and_goes_on_after_its_rows();
  a_chain_goes_on_with_the_decoder_it_is_given();
  guidance_plan_and_noise_need_no_new_graph();
  a_run_like_one_before_allocates_nothing();
  every_row_is_told_in_order_once_it_is_done();
  a_row_is_on_the_stream_while_another_runs();
  ahead_all_rows_are_on_the_stream_before_one_is_waited_for();
  whoever_cancels_waits_for_one_row();
  an_engine_that_fails_leaves_a_usable_loop();
  an_engine_that_no_graph_can_hold_is_an_error_and_no_more();
  an_observer_that_throws_leaves_a_usable_loop();
  running_out_of_memory_in_flight_leaves_a_usable_loop();
  what_is_missing_is_said();
  what_nobody_counts_is_not_said();
  a_longer_table_that_does_not_fit_leaves_a_usable_loop();
  a_running_loop_refuses_a_second_thread();
  a_forked_child_is_refused();
  sizes_that_do_not_fit_are_refused_before_anything_runs();
  a_plan_of_no_rows_changes_nothing();
  forgotten_graphs_are_captured_again();
  a_profiled_run_says_where_the_time_of_every_row_went();
  rows_that_were_all_on_the_stream_show_what_others_waited_for_their_launch();
}
