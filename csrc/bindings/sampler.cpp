// Python's view of the sampler: convert, release the GIL, run, translate back.

#include "core/sampler.h"

#include <pybind11/functional.h>
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <memory>
#include <vector>

#include "plan.h"

namespace py = pybind11;
using namespace py::literals;

namespace omni_rt {
namespace {

/// A NumPy view that keeps its sampler alive; exported onwards by DLPack through NumPy.
Floats view(const py::object& owner, std::span<float> data, std::vector<py::ssize_t> shape) {
  return Floats(std::move(shape), data.data(), owner);
}

std::vector<py::ssize_t> engine_shape(const Sampler& sampler) {
  const auto& s = sampler.shape();
  return {static_cast<py::ssize_t>(sampler.rows()), static_cast<py::ssize_t>(s.channels),
          static_cast<py::ssize_t>(s.frames)};
}

class PythonEngine final : public StepEngine {
 public:
  explicit PythonEngine(py::function evaluate) : evaluate_(std::move(evaluate)) {}
  void evaluate() override {
    const py::gil_scoped_acquire locked;
    evaluate_();
  }

 private:
  py::function evaluate_;
};

bool run(Sampler& sampler, const Doubles& table, const py::function& evaluate,
         const Floats& renoise, float cfg_scale, float rescale, const py::object& on_row,
         const py::object& cancelled) {
  const std::vector<Row> rows = rows_from(table);
  const std::span<const float> noise(renoise.data(), static_cast<std::size_t>(renoise.size()));
  PythonEngine engine(evaluate);
  PythonObserver observer(on_row, cancelled);
  const py::gil_scoped_release unlocked;  // engine and observer take it back for their calls
  return sampler.run(rows, {.scale = cfg_scale, .phi = rescale}, noise, engine, observer);
}

double seconds(std::chrono::nanoseconds time) {
  return std::chrono::duration<double>(time).count();
}

}  // namespace

void bind_sampler(py::module_& m) {
  py::class_<Sampler>(m, "Sampler",
                      "Executes the rows of a plan on a batch of latents; owns the buffers.")
      .def(py::init([](std::size_t batch, std::size_t channels, std::size_t frames, bool guided) {
             const LatentShape shape{.batch = batch, .channels = channels, .frames = frames};
             return std::make_unique<Sampler>(shape, guided);
           }),
           py::kw_only(), "batch"_a, "channels"_a, "frames"_a, "guided"_a)
      .def_property_readonly(
          "x",
          [](const py::object& self) {
            auto& s = self.cast<Sampler&>();
            return view(self, s.x(), engine_shape(s));
          },
          "Engine input [rows, C, L]; its first `batch` rows are the latents.")
      .def_property_readonly(
          "t",
          [](const py::object& self) {
            auto& s = self.cast<Sampler&>();
            return view(self, s.t(), {static_cast<py::ssize_t>(s.rows())});
          },
          "Engine input [rows]: the time of the evaluation.")
      .def_property_readonly(
          "velocity",
          [](const py::object& self) {
            auto& s = self.cast<Sampler&>();
            return view(self, s.velocity(), engine_shape(s));
          },
          "Engine output [rows, C, L].")
      .def("run", &run, "rows"_a.noconvert(), "evaluate"_a, py::kw_only(), "renoise"_a.noconvert(),
           "cfg_scale"_a, "rescale"_a, "on_row"_a = py::none(), "cancelled"_a = py::none(),
           "Execute the rows; False if cancelled. The GIL is held only inside the callbacks.")
      .def_property_readonly(
          "engine_s", [](const Sampler& s) { return seconds(s.times().engine); },
          "Seconds of the last run inside `evaluate`.")
      .def_property_readonly(
          "total_s", [](const Sampler& s) { return seconds(s.times().total); },
          "Seconds of the last run, without the callbacks of the last row.");
}

}  // namespace omni_rt
