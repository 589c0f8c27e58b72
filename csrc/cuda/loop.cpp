#include "loop.h"

#include <algorithm>
#include <stdexcept>

namespace omni_rt::cuda {
namespace {

DeviceRow device_row(const Row& row) {
  return {.t = row.t,
          .p = row.p,
          .q = row.q,
          .a = row.a,
          .b0 = row.b[0],
          .b1 = row.b[1],
          .b2 = row.b[2],
          .c = row.c};
}

std::pair<std::size_t, std::uint64_t> chain_of(const Run& run) {
  return {run.rows.size(), run.finish_key};
}

/// Memory of at least `bytes`: what there is, or new memory once the old has been let go.
void reserve(Memory& memory, Device& device, std::size_t bytes) {
  if (memory.bytes() >= bytes) return;
  memory = Memory();
  memory = Memory(device, bytes);
}

}  // namespace

/// Marks a loop as running as long as it lives.
class Loop::Entry {
 public:
  explicit Entry(Loop& loop) : running_(loop.running_) {
    if (running_.exchange(true))
      throw DeviceError("this loop is running already: one thread at a time");
  }
  Entry(const Entry&) = delete;
  Entry& operator=(const Entry&) = delete;
  ~Entry() { running_ = false; }

 private:
  std::atomic<bool>& running_;  // borrowed: the loop outlives its run
};

Loop::Loop(Device& device, LatentShape shape, bool guided, IoType io)
    : device_(device), shape_(shape), guided_(guided), io_(io) {
  const std::size_t size = shape.size();
  if (size == 0) throw std::invalid_argument("a loop needs at least one element");
  device.enter();
  state_x_ = Memory(device, size * sizeof(float));
  engine_x_ = Memory(device, rows() * shape.clip() * bytes_of(io));
  t_ = Memory(device, rows() * sizeof(float));
  velocity_ = Memory(device, engine_x_.bytes());
  ring_ = Memory(device, 3 * size * sizeof(float));
  state_ = Memory(device, sizeof(LoopState));
  call_ = {.io = io,
           .engine_x = engine_x_.data(),
           .velocity = velocity_.data(),
           .rest = {.state = state_.as<LoopState>(),
                    .x = state_x_.as<float>(),
                    .engine_x = nullptr,
                    .velocity = nullptr,
                    .ring = ring_.as<float>(),
                    .t = t_.as<float>(),
                    .batch = shape.batch,
                    .channels = shape.channels,
                    .frames = shape.frames,
                    .guided = guided}};
}

std::size_t Loop::bytes() const {
  std::size_t sum = 0;
  for (const Memory* memory :
       {&state_x_, &engine_x_, &t_, &velocity_, &ring_, &state_, &table_, &noise_})
    sum += memory->bytes();
  return sum;
}

void Loop::forget_graphs() {
  const Entry entry(*this);
  step_.reset();
  chains_.clear();
  warm_ = false;
}

void Loop::check(const Run& run) const {
  const auto noisy = std::ranges::count_if(run.rows, [](const Row& row) { return row.c != 0; });
  if (run.renoise.size() != static_cast<std::size_t>(noisy) * shape_.size())
    throw std::invalid_argument("renoise must hold one [batch, C, L] per row with c != 0");
  if (run.start.size() != shape_.size())
    throw std::invalid_argument("start must be [batch, C, L] of this loop");
  if (run.mode == Mode::chain && run.rows.size() > most_chained_rows)
    throw std::invalid_argument("a chain has at most 16 rows: replay longer plans");
  if (run.mode != Mode::chain && run.finish != nullptr)
    throw std::invalid_argument("only a chain can go on after its last row");
  if ((run.finish != nullptr) != (run.finish_key != 0))
    throw std::invalid_argument("finish needs a key other than 0, which tells it from others");
}

bool Loop::run(const Run& run, StreamEngine& engine, Observer& observer) {
  const Entry entry(*this);
  check(run);
  device_.enter();
  prepare(run, engine);
  try {
    write_tables(run);
    return execute(run, engine, observer);
  } catch (...) {
    try {
      device_.synchronise();  // nothing of this run is on the stream when the next one begins
    } catch (const DeviceError&) {
      // the error on its way says more than this one
    }
    throw;
  }
}

void Loop::download(std::span<float> latents) {
  if (latents.size() != shape_.size())
    throw std::invalid_argument("latents must be [batch, C, L] of this loop");
  const Entry entry(*this);
  device_.enter();
  device_.download(latents.data(), state_x_.data(), state_x_.bytes());
}

/// Everything that may allocate.
void Loop::prepare(const Run& run, StreamEngine& engine) {
  reserve(table_, device_, run.rows.size() * sizeof(DeviceRow));
  reserve(noise_, device_, run.renoise.size() * sizeof(float));
  host_table_.reserve(run.rows.size());
  if (run.profile) row_times_.reserve(run.rows.size());
  if (run.mode == Mode::enqueue || run.rows.empty()) return;
  if (!warm_) {
    warm_up(engine);
    warm_ = true;
  }
  if (run.mode != Mode::chain) {
    if (!step_) step_ = captured(1, engine, nullptr);
  } else if (!chains_.contains(chain_of(run))) {
    if (run.finish != nullptr) warm_up(*run.finish);
    chains_[chain_of(run)] = captured(run.rows.size(), engine, run.finish);
  }
}

/// Libraries load their kernels and take their workspaces, which no capture can hold.
void Loop::warm_up(StreamEngine& engine) {
  engine.enqueue(device_.stream());
  device_.synchronise();
}

std::unique_ptr<Graph> Loop::captured(std::size_t rows, StreamEngine& engine,
                                      StreamEngine* finish) {
  device_.begin_capture();
  try {
    for (std::size_t n = 0; n < rows; ++n) enqueue_row(engine);
    if (finish != nullptr) finish->enqueue(device_.stream());
  } catch (...) {
    device_.abandon_capture();
    throw;
  }
  return device_.end_capture();
}

void Loop::enqueue_row(StreamEngine& engine) {
  device_.open_row(call_);
  engine.enqueue(device_.stream());
  device_.step(call_);
}

void Loop::write_tables(const Run& run) {
  host_table_.clear();
  std::int32_t noisy = 0;
  for (const Row& row : run.rows) {
    host_table_.push_back(device_row(row));
    if (row.c != 0) host_table_.back().noise = noisy++;
  }
  const LoopState state{.rows = table_.as<DeviceRow>(),
                        .noise = noise_.as<float>(),
                        .scale = run.guidance.scale,
                        .phi = guided_ ? run.guidance.phi : 0};
  device_.upload(state_.data(), &state, sizeof state);
  device_.upload(table_.data(), host_table_.data(), host_table_.size() * sizeof(DeviceRow));
  device_.upload(noise_.data(), run.renoise.data(), run.renoise.size_bytes());
  device_.upload(state_x_.data(), run.start.data(), run.start.size_bytes());
  device_.zero(ring_.data(), ring_.bytes());
  device_.spread(call_);
}

bool Loop::execute(const Run& run, StreamEngine& engine, Observer& observer) {
  row_times_.clear();
  if (run.mode != Mode::chain || run.rows.empty()) return execute_rows(run, engine, observer);
  if (observer.cancelled()) return false;
  device_.launch(*chains_.at(chain_of(run)));
  device_.synchronise();
  observer.on_row(run.rows.size(), run.rows.size());
  return true;
}

/// One row is on the stream while another runs: the device need not wait for the host, and a caller
/// who cancels waits for one row. Ahead, all of them are.
bool Loop::execute_rows(const Run& run, StreamEngine& engine, Observer& observer) {
  const std::size_t total = run.rows.size();
  // Marks of row n: its begin (profiled) and its end. Two rows are on their way at most.
  const auto begin = [&](std::size_t n) { return run.profile ? 2 * n : 0; };
  const auto end = [&](std::size_t n) { return run.profile ? 2 * n + 1 : n % 2; };
  for (std::size_t n = 0; n < total; ++n) {
    if (observer.cancelled()) {
      device_.synchronise();
      return false;
    }
    if (run.profile) device_.mark(begin(n));
    if (run.mode == Mode::enqueue) {
      enqueue_row(engine);
    } else {
      device_.launch(*step_);
    }
    device_.mark(end(n));
    if (n == 0 || run.mode == Mode::ahead) continue;
    device_.wait(end(n - 1));
    observer.on_row(n, total);
  }
  device_.synchronise();
  if (run.profile) read_times(total);
  if (total > 0) observer.on_row(total, total);
  return true;
}

void Loop::read_times(std::size_t rows) {
  for (std::size_t n = 0; n < rows; ++n)
    row_times_.push_back({.gap_us = n == 0 ? 0 : device_.microseconds(2 * n - 1, 2 * n),
                          .row_us = device_.microseconds(2 * n, 2 * n + 1)});
}

}  // namespace omni_rt::cuda
