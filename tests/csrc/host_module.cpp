// _cuda_host: the bindings of the loop on a device that is the processor, for tests in Python.

#include <pybind11/functional.h>
#include <pybind11/pybind11.h>

#include "bindings/device_loop.h"
#include "host_device.h"

namespace py = pybind11;
using namespace py::literals;

PYBIND11_MODULE(_cuda_host, m) {
  using omni_rt::cuda::Device;
  using omni_rt::testing::HostDevice;
  omni_rt::bind_device_loop(m);
  py::class_<HostDevice, Device, std::shared_ptr<HostDevice>>(m, "HostDevice")
      .def(py::init<std::size_t>(), "memory_bytes"_a = std::size_t{1} << 30)
      .def_readwrite("forked", &HostDevice::forked)
      .def_readonly("allocations", &HostDevice::allocations)
      .def_readonly("captures", &HostDevice::captures)
      .def_readonly("launches", &HostDevice::launches);
  m.def(
      "submit",
      [](std::uintptr_t stream, std::function<void()> work) {
        reinterpret_cast<HostDevice*>(stream)->submit(std::move(work));
      },
      "stream"_a, "work"_a, "Enqueue work on a HostDevice's stream, as a library would.");
}
