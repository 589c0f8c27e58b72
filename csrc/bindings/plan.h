#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <vector>

#include "core/plan.h"
#include "core/sampler.h"

namespace omni_rt {

using Floats = pybind11::array_t<float, pybind11::array::c_style>;
using Doubles = pybind11::array_t<double, pybind11::array::c_style>;

/// A plan's table as rows. Throws value_error unless it has eight columns.
inline std::vector<Row> rows_from(const Doubles& table) {
  if (table.ndim() != 2 || table.shape(1) != 8)
    throw pybind11::value_error("rows must be float64 [n, 8]: t, p, q, a, b0, b1, b2, c");
  const auto cell = table.unchecked<2>();
  std::vector<Row> rows(static_cast<std::size_t>(table.shape(0)));
  for (pybind11::ssize_t n = 0; n < table.shape(0); ++n) {
    const auto f = [&](pybind11::ssize_t i) { return static_cast<float>(cell(n, i)); };
    rows[static_cast<std::size_t>(n)] = {f(0), f(1), f(2), f(3), {f(4), f(5), f(6)}, f(7)};
  }
  return rows;
}

/// Callbacks of Python, either of which may be None. Called without the GIL, which they take.
class PythonObserver final : public Observer {
 public:
  PythonObserver(pybind11::object on_row, pybind11::object cancelled)
      : on_row_(std::move(on_row)), cancelled_(std::move(cancelled)) {}
  void on_row(std::size_t done, std::size_t total) override {
    if (!has_on_row_) return;
    const pybind11::gil_scoped_acquire locked;
    on_row_(done, total);
  }
  bool cancelled() override {
    if (!has_cancelled_) return false;
    const pybind11::gil_scoped_acquire locked;
    return cancelled_().cast<bool>();
  }

 private:
  pybind11::object on_row_, cancelled_;
  bool has_on_row_ = !on_row_.is_none(), has_cancelled_ = !cancelled_.is_none();
};

}  // namespace omni_rt
