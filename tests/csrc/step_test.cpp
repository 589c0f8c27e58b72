// Laws of one step. Exact checks use small whole numbers, which no order of rounding can change.

#include "core/step.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <random>
#include <vector>

#include "check.h"

namespace omni_rt::testing {
namespace {

/// 70 frames: one whole tile of 64 and a part of one.
constexpr LatentShape several_tiles{.batch = 2, .channels = 3, .frames = 70};

struct Step {
  explicit Step(LatentShape of, unsigned seed = 1) : shape(of) {
    std::mt19937 random(seed);
    for (auto* buffer : {&x, &v_cond, &v_uncond, &h1, &h2, &z}) {
      buffer->resize(shape.size());
      for (float& value : *buffer) value = static_cast<float>(static_cast<int>(random() % 17) - 8);
    }
    x_copy.assign(shape.size(), -99);
    h0.assign(shape.size(), -99);
  }

  void run(const Row& row, const Guidance& guidance, bool guided = true) {
    const std::span<float> copy = guided ? std::span<float>(x_copy) : std::span<float>();
    const std::span<const float> u = guided ? std::span<const float>(v_uncond) : v_none();
    const std::span<const float> noise = row.c != 0 ? std::span<const float>(z) : v_none();
    step_cpu(row, guidance, shape,
             {.x = x,
              .x_copy = copy,
              .v_cond = v_cond,
              .v_uncond = u,
              .h0 = h0,
              .h1 = h1,
              .h2 = h2,
              .z = noise});
  }

  static std::span<const float> v_none() { return {}; }

  LatentShape shape;
  std::vector<float> x, x_copy, v_cond, v_uncond, h0, h1, h2, z;
};

void guidance_moves_from_the_other_branch_towards_the_conditional() {
  Step step(several_tiles);
  step.run({.a = 0, .b = {1, 0, 0}}, {.scale = 7});
  for (std::size_t i = 0; i < step.x.size(); ++i)
    check(step.x[i] == step.v_uncond[i] + 7 * (step.v_cond[i] - step.v_uncond[i]));
}

void without_another_branch_the_scale_and_phi_are_ignored() {
  Step step(several_tiles);
  step.run({.a = 0, .b = {1, 0, 0}}, {.scale = 7, .phi = 0.5F}, false);
  check(step.x == step.v_cond);
  check(std::ranges::all_of(step.x_copy, [](float value) { return value == -99; }));
}

void a_row_is_a_sum_of_its_six_terms() {
  Step step(several_tiles);
  const Step before = step;
  step.run({.p = 2, .q = -3, .a = 4, .b = {5, 6, 7}, .c = 8}, {}, false);
  for (std::size_t i = 0; i < step.x.size(); ++i) {
    const float h = 2 * before.x[i] - 3 * before.v_cond[i];
    check(step.h0[i] == h);
    check(step.x[i] ==
          4 * before.x[i] + 5 * h + 6 * before.h1[i] + 7 * before.h2[i] + 8 * before.z[i]);
  }
}

void the_copy_mirrors_the_state() {
  Step step(several_tiles);
  step.run({.a = 1, .b = {0.1F, 0.2F, 0.3F}, .c = 0.4F}, {.scale = 3, .phi = 0.7F});
  check(step.x == step.x_copy);
}

void older_directions_are_read_only() {
  Step step(several_tiles);
  const Step before = step;
  step.run({.b = {1, 2, 3}}, {.scale = 3, .phi = 0.7F});
  check(step.h1 == before.h1 && step.h2 == before.h2);
  check(step.v_cond == before.v_cond && step.v_uncond == before.v_uncond);
}

double variance(const std::vector<double>& values) {
  double mean = 0;
  double sum = 0;
  for (const double value : values) mean += value / static_cast<double>(values.size());
  for (const double value : values) sum += (value - mean) * (value - mean);
  return sum / static_cast<double>(values.size() - 1);
}

/// The formula of UPSTREAM §3 for one frame: phi·v·std(c)/std(v) + (1 − phi)·v.
std::vector<double> rescaled_frame(const Step& step, Guidance by, std::size_t item,
                                   std::size_t frame) {
  std::vector<double> conditional;
  std::vector<double> guided;
  for (std::size_t c = 0; c < step.shape.channels; ++c) {
    const std::size_t i = item * step.shape.clip() + c * step.shape.frames + frame;
    const double u = step.v_uncond[i];
    conditional.push_back(step.v_cond[i]);
    guided.push_back(u + by.scale * (step.v_cond[i] - u));
  }
  const double ratio = std::sqrt(variance(conditional) / variance(guided));
  for (double& v : guided) v = by.phi * v * ratio + (1 - double{by.phi}) * v;
  return guided;
}

void phi_rescales_each_frame_over_its_channels() {
  for (const std::size_t frames : {1, 63, 64, 65, 129}) {
    Step step({.batch = 2, .channels = 5, .frames = frames}, static_cast<unsigned>(frames));
    const Guidance by{.scale = 7, .phi = 0.75F};
    step.run({.a = 0, .b = {1, 0, 0}}, by);
    for (std::size_t item = 0; item < 2; ++item)
      for (std::size_t f = 0; f < frames; ++f) {
        const std::vector<double> expected = rescaled_frame(step, by, item, f);
        for (std::size_t c = 0; c < 5; ++c)  // a dozen roundings of 6e-8 each
          check(near(step.x[item * step.shape.clip() + c * frames + f], expected[c], 1e-6));
      }
  }
}

void phi_zero_is_no_rescale() {
  const Row row{.a = 0.9F, .b = {0.1F, 0.2F, 0.3F}};
  Step none(several_tiles);
  Step zero(several_tiles);
  none.run(row, {.scale = 7});
  zero.run(row, {.scale = 7, .phi = 0});
  check(none.x == zero.x);
}

void phi_zero_needs_no_spread_over_channels() {
  Step step({.batch = 1, .channels = 1, .frames = 3});
  step.run({.a = 0, .b = {1, 0, 0}}, {.scale = 2, .phi = 0});
  check(std::ranges::all_of(step.x, [](float value) { return std::isfinite(value); }));
}

}  // namespace
}  // namespace omni_rt::testing

int main() {
  using namespace omni_rt::testing;
  guidance_moves_from_the_other_branch_towards_the_conditional();
  without_another_branch_the_scale_and_phi_are_ignored();
  a_row_is_a_sum_of_its_six_terms();
  the_copy_mirrors_the_state();
  older_directions_are_read_only();
  phi_rescales_each_frame_over_its_channels();
  phi_zero_is_no_rescale();
  phi_zero_needs_no_spread_over_channels();
}
