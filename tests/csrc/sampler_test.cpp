// Laws of the loop over rows.

#include "core/sampler.h"

#include <algorithm>
#include <cstddef>
#include <cstdlib>
#include <functional>
#include <new>
#include <span>
#include <stdexcept>
#include <vector>

#include "check.h"

namespace {
std::size_t allocations = 0;  // by every operator new of this program
}

void* operator new(std::size_t size) {
  ++allocations;
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace omni_rt::testing {
namespace {

constexpr LatentShape shape{.batch = 2, .channels = 3, .frames = 70};

class Engine final : public StepEngine {
 public:
  explicit Engine(std::function<void()> action) : action_(std::move(action)) {}
  void evaluate() override {
    ++evaluations;
    action_();
  }
  int evaluations = 0;

 private:
  std::function<void()> action_;
};

class Watcher : public Observer {
 public:
  void on_row(std::size_t done, std::size_t total) override {
    rows_done = done;
    rows_total = total;
    ++calls;
  }
  bool cancelled() override { return calls == cancel_after; }
  std::size_t rows_done = 0, rows_total = 0, calls = 0, cancel_after = ~std::size_t{0};
};

std::vector<Row> euler(std::size_t steps) {
  const float delta = -1.0F / static_cast<float>(steps);
  std::vector<Row> rows;
  for (std::size_t n = 0; n < steps; ++n)
    rows.push_back({.t = 1 + static_cast<float>(n) * delta, .b = {delta, 0, 0}});
  return rows;
}

void fill_with_noise(Sampler& sampler) {
  for (std::size_t i = 0; i < sampler.shape().size(); ++i)
    sampler.x()[i] = static_cast<float>(i % 13) - 6;
}

/// A velocity that depends on x, t and the branch.
std::function<void()> decay(Sampler& sampler) {
  return [&sampler] {
    const std::size_t clip = sampler.shape().clip();
    for (std::size_t i = 0; i < sampler.x().size(); ++i)
      sampler.velocity()[i] = 0.5F * sampler.x()[i] + sampler.t()[i / clip] +
                              (i < sampler.shape().size() ? 0.25F : 0.0F);
  };
}

std::vector<float> state(Sampler& sampler) {
  const auto x = sampler.x().first(sampler.shape().size());
  return {x.begin(), x.end()};
}

void euler_is_exact_on_a_constant_velocity() {
  for (const std::size_t steps : {1, 2, 4, 64}) {  // steps of a power of two round nothing
    Sampler sampler(shape, false);
    fill_with_noise(sampler);
    const std::vector<float> noise = state(sampler);
    std::ranges::fill(sampler.velocity(), 3.0F);
    Engine engine([] {});
    Watcher watcher;
    check(sampler.run(euler(steps), {}, {}, engine, watcher));
    for (std::size_t i = 0; i < noise.size(); ++i) check(sampler.x()[i] == noise[i] - 3);
  }
}

void the_ring_holds_three_directions_newest_first() {
  Sampler sampler({.batch = 1, .channels = 1, .frames = 1}, false);
  float v = 0;
  Engine engine([&] { sampler.velocity()[0] = ++v; });
  Watcher watcher;
  // With a = 0 a run ends on Σ b·h of its last row; before the first row there were zeros.
  const std::vector<float> expected{1, 2 + 10, 3 + 20 + 100, 4 + 30 + 200, 5 + 40 + 300};
  for (std::size_t rows = 1; rows <= expected.size(); ++rows) {
    v = 0;
    const std::vector<Row> plan(rows, {.a = 0, .b = {1, 10, 100}});
    check(sampler.run(plan, {}, {}, engine, watcher));
    check(sampler.x()[0] == expected[rows - 1]);
  }
}

void every_engine_row_sees_the_time_of_its_plan_row() {
  Sampler sampler(shape, true);
  std::vector<float> seen;
  Engine engine([&] {
    check(std::ranges::all_of(sampler.t(), [&](float t) { return t == sampler.t()[0]; }));
    seen.push_back(sampler.t()[0]);
  });
  Watcher watcher;
  sampler.run(euler(4), {.scale = 2}, {}, engine, watcher);
  check(seen == std::vector<float>{1, 0.75F, 0.5F, 0.25F});
}

void both_branches_see_the_same_state_in_every_row() {
  Sampler sampler(shape, true);
  fill_with_noise(sampler);
  const auto velocity = decay(sampler);
  Engine engine([&] {
    const auto x = sampler.x();
    check(std::ranges::equal(x.first(shape.size()), x.subspan(shape.size())));
    velocity();
  });
  Watcher watcher;
  check(sampler.run(euler(5), {.scale = 7, .phi = 0.5F}, {}, engine, watcher));
  check(engine.evaluations == 5);
}

void the_observer_is_told_of_every_row_once() {
  Sampler sampler(shape, false);
  Engine engine([] {});
  Watcher watcher;
  sampler.run(euler(7), {}, {}, engine, watcher);
  check(watcher.calls == 7 && watcher.rows_done == 7 && watcher.rows_total == 7);
}

void cancellation_stops_before_the_next_evaluation() {
  for (const std::size_t after : {0, 1, 3}) {
    Sampler sampler(shape, true);
    Engine engine([] {});
    Watcher watcher;
    watcher.cancel_after = after;
    check(!sampler.run(euler(8), {.scale = 2}, {}, engine, watcher));
    check(engine.evaluations == static_cast<int>(after));
  }
}

std::vector<float> run_fresh() {
  Sampler sampler(shape, true);
  fill_with_noise(sampler);
  Engine engine(decay(sampler));
  Watcher watcher;
  const std::vector<Row> rows(4, {.t = 0.5F, .a = 1, .b = {-0.25F, 0.125F, -0.0625F}});
  sampler.run(rows, {.scale = 2}, {}, engine, watcher);
  return state(sampler);
}

void an_engine_failure_propagates_and_leaves_a_usable_sampler() {
  Sampler sampler(shape, true);
  fill_with_noise(sampler);
  const auto velocity = decay(sampler);
  int left = 3;
  Engine engine([&] {
    if (--left == 0) throw std::domain_error("engine");
    velocity();
  });
  Watcher watcher;
  const std::vector<Row> rows(4, {.t = 0.5F, .a = 1, .b = {-0.25F, 0.125F, -0.0625F}});
  check_throws<std::domain_error>([&] { sampler.run(rows, {.scale = 2}, {}, engine, watcher); });
  fill_with_noise(sampler);
  check(sampler.run(rows, {.scale = 2}, {}, engine, watcher));
  check(state(sampler) == run_fresh());
}

void a_cancelled_run_leaves_nothing_behind() {
  Sampler sampler(shape, true);
  fill_with_noise(sampler);
  Engine engine(decay(sampler));
  Watcher cancelling;
  cancelling.cancel_after = 2;
  const std::vector<Row> rows(4, {.t = 0.5F, .a = 1, .b = {-0.25F, 0.125F, -0.0625F}});
  check(!sampler.run(rows, {.scale = 2}, {}, engine, cancelling));
  fill_with_noise(sampler);
  Watcher watcher;
  check(sampler.run(rows, {.scale = 2}, {}, engine, watcher));
  check(state(sampler) == run_fresh());
}

void a_run_allocates_nothing() {
  Sampler sampler(shape, true);
  fill_with_noise(sampler);
  std::vector<Row> rows = euler(6);
  rows[2].c = 0.5F;
  const std::vector<float> noise(shape.size(), 1.0F);
  Engine engine(decay(sampler));
  Watcher watcher;
  const std::size_t before = allocations;
  check(sampler.run(rows, {.scale = 7, .phi = 0.5F}, noise, engine, watcher));
  check(allocations == before);
  check(std::vector<int>(9).size() == 9 && allocations == before + 1);  // the counter counts
}

void noise_is_taken_in_the_order_of_the_rows_that_want_it() {
  constexpr LatentShape two{.batch = 2, .channels = 1, .frames = 1};
  Sampler sampler(two, false);
  Engine engine([] {});
  Watcher watcher;
  const std::vector<Row> rows{{.a = 10, .c = 1}, {.a = 10}, {.a = 10, .c = 2}};
  const std::vector<float> noise{1, 2, 3, 4};
  std::ranges::fill(sampler.x(), 0.0F);
  check(sampler.run(rows, {}, noise, engine, watcher));
  check(state(sampler) == std::vector<float>{100 + 2 * 3, 200 + 2 * 4});
}

void noise_of_another_size_is_refused_before_anything_runs() {
  Sampler sampler(shape, false);
  Engine engine([] {});
  Watcher watcher;
  std::vector<Row> rows = euler(3);
  rows[1].c = 1;
  for (const std::size_t size : {std::size_t{0}, shape.size() - 1, 2 * shape.size()})
    check_throws<std::invalid_argument>(
        [&] { sampler.run(rows, {}, std::vector<float>(size), engine, watcher); });
  check(engine.evaluations == 0);
}

void a_running_sampler_cannot_be_run() {
  Sampler sampler(shape, true);
  Watcher watcher;
  Engine inner([] {});
  Engine outer([&] {
    check_throws<std::logic_error>([&] { sampler.run(euler(1), {}, {}, inner, watcher); });
  });
  check(sampler.run(euler(3), {}, {}, outer, watcher));
  check(inner.evaluations == 0 && outer.evaluations == 3);
  check(sampler.run(euler(1), {}, {}, inner, watcher));  // and afterwards it can
}

void a_plan_of_no_rows_changes_nothing() {
  Sampler sampler(shape, true);
  fill_with_noise(sampler);
  const std::vector<float> noise = state(sampler);
  Engine engine([] {});
  Watcher watcher;
  check(sampler.run({}, {}, {}, engine, watcher));
  check(state(sampler) == noise && engine.evaluations == 0);
}

void a_shape_without_elements_is_refused() {
  for (const LatentShape empty : {LatentShape{.batch = 0}, {.channels = 0}, {.frames = 0}})
    check_throws<std::invalid_argument>([&] { Sampler(empty, true); });
}

}  // namespace
}  // namespace omni_rt::testing

int main() {
  using namespace omni_rt::testing;
  euler_is_exact_on_a_constant_velocity();
  the_ring_holds_three_directions_newest_first();
  every_engine_row_sees_the_time_of_its_plan_row();
  both_branches_see_the_same_state_in_every_row();
  the_observer_is_told_of_every_row_once();
  cancellation_stops_before_the_next_evaluation();
  an_engine_failure_propagates_and_leaves_a_usable_sampler();
  a_cancelled_run_leaves_nothing_behind();
  a_run_allocates_nothing();
  noise_is_taken_in_the_order_of_the_rows_that_want_it();
  noise_of_another_size_is_refused_before_anything_runs();
  a_running_sampler_cannot_be_run();
  a_plan_of_no_rows_changes_nothing();
  a_shape_without_elements_is_refused();
}
