// omni_rt._cuda: the loop on CUDA devices. Loads without a driver; opening a device needs one.

#include <pybind11/pybind11.h>

#include "cuda/cuda_device.h"
#include "device_loop.h"

namespace py = pybind11;
using namespace py::literals;

PYBIND11_MODULE(_cuda, m) {
  using omni_rt::cuda::CudaDevice;
  using omni_rt::cuda::Device;
  m.doc() = "The sampling loop of omni_rt on CUDA devices.";
  omni_rt::bind_device_loop(m);
  py::class_<CudaDevice, Device, std::shared_ptr<CudaDevice>>(m, "CudaDevice",
                                                              "A CUDA device and a stream of it.")
      .def(py::init<int, std::uintptr_t>(), "ordinal"_a = 0, py::kw_only(), "stream"_a = 0,
           "`stream` is a cudaStream_t as an integer, borrowed; 0 makes one.");
}
