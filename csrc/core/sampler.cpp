#include "sampler.h"

#include <algorithm>
#include <stdexcept>

#include "step.h"

namespace omni_rt {
namespace {

using Clock = std::chrono::steady_clock;

/// Marks a sampler as running as long as it lives.
class Running {
 public:
  explicit Running(std::atomic<bool>& flag) : flag_(flag) {
    if (flag_.exchange(true)) throw std::logic_error("this sampler is running already");
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;
  ~Running() { flag_ = false; }

 private:
  std::atomic<bool>& flag_;  // borrowed: the sampler outlives its run
};

void check_renoise(std::span<const Row> rows, std::size_t size, std::size_t given) {
  const auto noisy = std::ranges::count_if(rows, [](const Row& row) { return row.c != 0; });
  if (given != static_cast<std::size_t>(noisy) * size)
    throw std::invalid_argument("renoise must hold one [batch, C, L] per row with c != 0");
}

}  // namespace

Sampler::Sampler(LatentShape shape, bool guided)
    : shape_(shape), guided_(guided), x_(rows() * shape.clip()), t_(rows()), velocity_(x_.size()) {
  if (shape.size() == 0) throw std::invalid_argument("a sampler needs at least one element");
  for (auto& h : ring_) h.resize(shape.size());
}

bool Sampler::run(std::span<const Row> rows, const Guidance& guidance,
                  std::span<const float> renoise, StepEngine& engine, Observer& observer) {
  check_renoise(rows, shape_.size(), renoise.size());
  const Running running(running_);
  const auto start = Clock::now();
  times_ = {};
  for (auto& h : ring_) std::ranges::fill(h, 0.0F);
  if (guided_) std::copy_n(x_.begin(), shape_.size(), x_.begin() + shape_.size());
  for (std::size_t n = 0; n < rows.size(); ++n) {
    if (observer.cancelled()) return false;
    std::ranges::fill(t_, rows[n].t);
    const auto entered = Clock::now();
    engine.evaluate();
    times_.engine += Clock::now() - entered;
    const bool noisy = rows[n].c != 0;
    step(rows[n], guidance, renoise.first(noisy ? shape_.size() : 0));
    if (noisy) renoise = renoise.subspan(shape_.size());
    times_.total = Clock::now() - start;
    observer.on_row(n + 1, rows.size());
  }
  return true;
}

void Sampler::step(const Row& row, const Guidance& guidance, std::span<const float> z) {
  std::rotate(ring_.begin(), ring_.end() - 1, ring_.end());  // swaps owners, moves no data
  const std::size_t size = shape_.size();
  const std::span x(x_);
  const std::span<const float> v(velocity_);
  step_cpu(row, guidance, shape_,
           {.x = x.first(size),
            .x_copy = x.subspan(size),
            .v_cond = v.first(size),
            .v_uncond = v.subspan(size),
            .h0 = ring_[0],
            .h1 = ring_[1],
            .h2 = ring_[2],
            .z = z});
}

}  // namespace omni_rt
