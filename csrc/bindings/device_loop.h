#pragma once

#include <pybind11/pybind11.h>

namespace omni_rt {

/// The loop on a device, the arrays it shares, and their errors as omni_rt.errors.EngineError.
void bind_device_loop(pybind11::module_& m);

}  // namespace omni_rt
