#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <span>
#include <vector>

#include "plan.h"

namespace omni_rt {

/// Whatever computes the velocity: reads the sampler's x and t, writes its velocity.
/// Exceptions pass through Sampler::run, which may then be run again.
class StepEngine {
 public:
  virtual ~StepEngine() = default;
  virtual void evaluate() = 0;
};

/// Told after each row; asked before each row whether to go on.
class Observer {
 public:
  virtual ~Observer() = default;
  virtual void on_row(std::size_t done, std::size_t total) = 0;
  virtual bool cancelled() = 0;
};

/// Where the time of the last run went.
struct RunTimes {
  std::chrono::nanoseconds engine{0};  // inside StepEngine::evaluate
  std::chrono::nanoseconds total{0};
};

/// Executes the rows of a plan on a batch of latents. Owns every buffer, allocates them once, in
/// the constructor. One thread at a time.
///
/// Engine rows: `batch` conditional ones, then, if guided, as many for the other branch
/// (unconditional or negative) with the same x and t.
class Sampler {
 public:
  Sampler(LatentShape shape, bool guided);

  [[nodiscard]] const LatentShape& shape() const { return shape_; }
  [[nodiscard]] bool guided() const { return guided_; }
  [[nodiscard]] std::size_t rows() const { return guided_ ? 2 * shape_.batch : shape_.batch; }

  /// Engine input [rows, C, L]. Its first `batch` rows are the state: put the noise there before
  /// `run`, take the latents from there afterwards.
  [[nodiscard]] std::span<float> x() { return x_; }
  [[nodiscard]] std::span<float> t() { return t_; }                // engine input [rows]
  [[nodiscard]] std::span<float> velocity() { return velocity_; }  // engine output [rows, C, L]

  /// Executes `rows` in order. `renoise` holds one [batch, C, L] per row with c ≠ 0, in order.
  /// Returns false if the observer cancelled; x is then unfinished. Allocates nothing.
  /// Throws std::invalid_argument if `renoise` has another size, std::logic_error if it is running.
  bool run(std::span<const Row> rows, const Guidance& guidance, std::span<const float> renoise,
           StepEngine& engine, Observer& observer);

  [[nodiscard]] const RunTimes& times() const { return times_; }

 private:
  void step(const Row& row, const Guidance& guidance, std::span<const float> z);

  LatentShape shape_;
  bool guided_;
  std::vector<float> x_, t_, velocity_;
  std::array<std::vector<float>, 3> ring_;  // newest first after rotation
  RunTimes times_;
  std::atomic<bool> running_{false};
};

}  // namespace omni_rt
