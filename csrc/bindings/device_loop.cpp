// Python's view of the loop on a device: convert, release the GIL, run, translate back.

#include "device_loop.h"

#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <map>
#include <memory>
#include <optional>

#include "cuda/loop.h"
#include "device_array.h"
#include "plan.h"

namespace py = pybind11;
using namespace py::literals;

namespace omni_rt {
namespace {

using cuda::Device;
using cuda::Loop;
using cuda::Mode;

/// A loop and the device it must not outlive.
struct BoundLoop {
  std::shared_ptr<Device> device;
  Loop loop;
};

class PythonStreamEngine final : public cuda::StreamEngine {
 public:
  explicit PythonStreamEngine(py::function enqueue) : enqueue_(std::move(enqueue)) {}
  void enqueue(std::uintptr_t stream) override {
    const py::gil_scoped_acquire locked;
    enqueue_(stream);
  }

 private:
  py::function enqueue_;
};

Mode mode_named(const std::string& name) {
  const std::map<std::string, Mode> modes{{"replay", Mode::replay},
                                          {"chain", Mode::chain},
                                          {"enqueue", Mode::enqueue},
                                          {"ahead", Mode::ahead}};
  const auto found = modes.find(name);
  if (found == modes.end())
    throw py::value_error("mode must be replay, chain, enqueue or ahead, got " + name);
  return found->second;
}

std::span<const float> span_of(const Floats& array) {
  return {array.data(), static_cast<std::size_t>(array.size())};
}

bool run(BoundLoop& self, const Doubles& table, const py::function& enqueue, const Floats& start,
         const Floats& renoise, float cfg_scale, float rescale, const std::string& mode,
         bool profile, const py::object& on_row, const py::object& cancelled,
         const std::optional<py::function>& finish, std::uint64_t finish_key) {
  const std::vector<Row> rows = rows_from(table);
  PythonStreamEngine engine(enqueue);
  PythonObserver observer(on_row, cancelled);
  std::optional<PythonStreamEngine> last;
  if (finish) last.emplace(*finish);
  const cuda::Run what{.rows = rows,
                       .guidance = {.scale = cfg_scale, .phi = rescale},
                       .start = span_of(start),
                       .renoise = span_of(renoise),
                       .mode = mode_named(mode),
                       .profile = profile,
                       .finish = last ? &*last : nullptr,
                       .finish_key = finish_key};
  const py::gil_scoped_release unlocked;  // engine and observer take it back for their calls
  return self.loop.run(what, engine, observer);
}

DeviceArray array_of(const std::shared_ptr<BoundLoop>& self, void* data, cuda::IoType type,
                     std::size_t rows, bool latents) {
  const auto& s = self->loop.shape();
  std::vector<std::int64_t> shape{static_cast<std::int64_t>(rows)};
  if (latents) {
    shape.push_back(static_cast<std::int64_t>(s.channels));
    shape.push_back(static_cast<std::int64_t>(s.frames));
  }
  return {.device = self->device, .owner = self, .data = data, .shape = shape, .type = type};
}

Floats read(BoundLoop& self) {
  const auto& s = self.loop.shape();
  Floats found({s.batch, s.channels, s.frames});
  const std::span<float> into(found.mutable_data(), s.size());
  const py::gil_scoped_release unlocked;
  self.loop.download(into);
  return found;
}

std::vector<std::pair<double, double>> row_times(const BoundLoop& self) {
  std::vector<std::pair<double, double>> times;
  for (const cuda::RowTime& row : self.loop.row_times()) times.emplace_back(row.gap_us, row.row_us);
  return times;
}

void translate(std::exception_ptr pending) {
  const auto raised = [](const char* name, const cuda::DeviceError& error) {
    py::set_error(py::module_::import("omni_rt.errors").attr(name), error.what());
  };
  try {
    if (pending) std::rethrow_exception(pending);
  } catch (const cuda::OutOfMemory& error) {
    raised("OutOfMemoryError", error);
  } catch (const cuda::DeviceError& error) {
    raised("EngineError", error);
  }
}

}  // namespace

void bind_device_loop(py::module_& m) {
  py::register_local_exception_translator(&translate);
  bind_device(m);
  using Shared = std::shared_ptr<BoundLoop>;
  py::class_<BoundLoop, Shared>(m, "Loop", py::module_local(),
                                "Executes plans for one shape on a device; owns the buffers.")
      .def(py::init([](const std::shared_ptr<Device>& device, std::size_t batch,
                       std::size_t channels, std::size_t frames, bool guided,
                       const std::string& dtype) {
             const LatentShape shape{.batch = batch, .channels = channels, .frames = frames};
             return Shared(new BoundLoop{device, {*device, shape, guided, type_named(dtype)}});
           }),
           "device"_a, py::kw_only(), "batch"_a, "channels"_a, "frames"_a, "guided"_a,
           "dtype"_a = "float32")
      .def_property_readonly(
          "x",
          [](const Shared& l) {
            return array_of(l, l->loop.x(), l->loop.io(), l->loop.rows(), true);
          },
          "Engine input [rows, C, L].")
      .def_property_readonly(
          "t",
          [](const Shared& l) {
            return array_of(l, l->loop.t(), cuda::IoType::float32, l->loop.rows(), false);
          },
          "Engine input [rows], float32.")
      .def_property_readonly(
          "velocity",
          [](const Shared& l) {
            return array_of(l, l->loop.velocity(), l->loop.io(), l->loop.rows(), true);
          },
          "Engine output [rows, C, L].")
      .def_property_readonly(
          "latents",
          [](const Shared& l) {
            return array_of(l, l->loop.latents(), cuda::IoType::float32, l->loop.shape().batch,
                            true);
          },
          "The result [batch, C, L], float32, on the device.")
      .def(
          "run", &run, "rows"_a.noconvert(), "enqueue"_a, py::kw_only(), "start"_a.noconvert(),
          "renoise"_a.noconvert(), "cfg_scale"_a, "rescale"_a, "mode"_a = "replay",
          "profile"_a = false, "on_row"_a = py::none(), "cancelled"_a = py::none(),
          "finish"_a = py::none(), "finish_key"_a = 0,
          "Execute the rows; False if cancelled. `enqueue(stream)` is called to warm up and while "
          "a graph is captured, as is a chain's `finish(stream)`, whose graph is kept for its key; "
          "the GIL is held only inside callbacks.")
      .def("read", &read, "The latents [batch, C, L] as a NumPy array; waits.")
      .def("forget_graphs", [](BoundLoop& l) { l.loop.forget_graphs(); })
      .def_property_readonly("graphs", [](const BoundLoop& l) { return l.loop.graphs(); })
      .def_property_readonly(
          "nbytes", [](const BoundLoop& l) { return l.loop.bytes(); },
          "Device memory of the buffers, without the graphs.")
      .def_property_readonly("row_times", &row_times,
                             "Microseconds (gap before, row) of every row of a profiled run.");
}

}  // namespace omni_rt
