#include <pybind11/pybind11.h>

namespace omni_rt {
void bind_sampler(pybind11::module_& m);
}

PYBIND11_MODULE(_core, m) {
  m.doc() = "The sampling loop of omni_rt.";
  omni_rt::bind_sampler(m);
}
