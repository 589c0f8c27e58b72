#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "core/plan.h"
#include "core/sampler.h"
#include "device.h"

namespace omni_rt::cuda {

/// Whatever computes the velocity on a stream: reads x and t, writes velocity, always at the same
/// addresses, and waits for nothing. Exceptions pass through the loop, which may be run again.
class StreamEngine {
 public:
  virtual ~StreamEngine() = default;
  virtual void enqueue(std::uintptr_t stream) = 0;
};

/// How rows get onto the stream.
enum class Mode {
  replay,   // one step is captured once, then launched for every row
  chain,    // all rows, and what follows them, are one graph: no progress and no cancelling inside
  enqueue,  // nothing is captured: the engine enqueues every row
  ahead,    // as replay, but all rows are on the stream before the first is waited for, and no
            // progress is told: what the device takes when it never waits for the host
};

inline constexpr std::size_t most_chained_rows = 16;

/// Where the device's time of a profiled row went. A row begins when the stream is free for it, so
/// what it waits for its own launch is in `row_us`: idle time that the host causes is what a row
/// and its gap take more than in a run with Mode::ahead.
struct RowTime {
  double gap_us = 0;  // from the row before to this one; 0 for the first
  double row_us = 0;
};

struct Run {
  std::span<const Row> rows;
  Guidance guidance;
  std::span<const float> start;    // host, [batch, C, L]
  std::span<const float> renoise;  // host, one [batch, C, L] per row with c ≠ 0, in order
  Mode mode = Mode::replay;
  bool profile = false;            // but for a chain: fills `row_times`
  StreamEngine* finish = nullptr;  // chain: enqueued after the last row, say a decoder
  std::uint64_t finish_key = 0;    // which `finish` it is: a graph is kept for every key; 0: none
};

/// Executes plans for one shape on a device. The arithmetic is core/step.h's on the same table; the
/// state is fp32, the engine's x and velocity are of type `io`, its t is fp32.
///
/// Buffers are allocated in the constructor, graphs at their first use, room for longer tables when
/// it is asked for; a run like one before allocates nothing. One thread at a time, others are
/// refused. The device outlives the loop.
class Loop {
 public:
  Loop(Device& device, LatentShape shape, bool guided, IoType io);

  [[nodiscard]] const LatentShape& shape() const { return shape_; }
  [[nodiscard]] IoType io() const { return io_; }
  [[nodiscard]] std::size_t rows() const { return guided_ ? 2 * shape_.batch : shape_.batch; }

  /// Device addresses that hold as long as the loop lives.
  [[nodiscard]] void* x() const { return engine_x_.data(); }         // io [rows, C, L]
  [[nodiscard]] void* t() const { return t_.data(); }                // fp32 [rows]
  [[nodiscard]] void* velocity() const { return velocity_.data(); }  // io [rows, C, L]
  [[nodiscard]] void* latents() const { return state_x_.data(); }    // fp32 [batch, C, L]

  /// Executes the rows; `latents()` then holds the result. The engine is called once to warm up and
  /// once per graph, as is `finish`; replays do not call it. The observer is asked before every row
  /// and told after it; when it cancels, at most one more row runs. Returns false if cancelled.
  /// Throws std::invalid_argument for sizes that do not fit, DeviceError if it is running already.
  bool run(const Run& run, StreamEngine& engine, Observer& observer);

  /// The latents, host [batch, C, L]. Waits.
  void download(std::span<float> latents);

  /// Forget the graphs: the engine's addresses have changed.
  void forget_graphs();
  [[nodiscard]] std::size_t graphs() const { return chains_.size() + (step_ ? 1 : 0); }
  [[nodiscard]] std::size_t bytes() const;
  [[nodiscard]] const std::vector<RowTime>& row_times() const { return row_times_; }

 private:
  class Entry;
  void check(const Run& run) const;
  void write_tables(const Run& run);
  void enqueue_row(StreamEngine& engine);
  [[nodiscard]] std::unique_ptr<Graph> captured(std::size_t rows, StreamEngine& engine,
                                                StreamEngine* finish);
  void prepare(const Run& run, StreamEngine& engine);
  void warm_up(StreamEngine& engine);
  bool execute(const Run& run, StreamEngine& engine, Observer& observer);
  bool execute_rows(const Run& run, StreamEngine& engine, Observer& observer);
  void read_times(std::size_t rows);

  Device& device_;  // borrowed
  LatentShape shape_;
  bool guided_;
  IoType io_;
  Memory state_x_, engine_x_, t_, velocity_, ring_, state_, table_, noise_;
  StepCall call_;
  std::unique_ptr<Graph> step_;
  // By number of rows, and the key of what follows them.
  std::map<std::pair<std::size_t, std::uint64_t>, std::unique_ptr<Graph>> chains_;
  std::vector<DeviceRow> host_table_;
  std::vector<RowTime> row_times_;
  bool warm_ = false;
  std::atomic<bool> running_{false};
};

}  // namespace omni_rt::cuda
