// Device memory for Python: DLPack, __cuda_array_interface__, and plain writing.

#include "device_array.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <array>

#include "dlpack.h"

namespace py = pybind11;
using namespace py::literals;

namespace omni_rt {
namespace {

using cuda::Device;
using cuda::IoType;

constexpr std::array<const char*, 3> type_names{"float32", "float16", "bfloat16"};

/// What a capsule's consumer holds until it calls the deleter.
struct Exported {
  DLManagedTensor tensor{};
  DeviceArray array;
};

py::capsule dlpack(const DeviceArray& self, const py::args&, const py::kwargs&) {
  self.device->enter();
  self.device->synchronise();  // the consumer's stream need not wait for ours
  auto exported = std::make_unique<Exported>();
  exported->array = self;
  const bool brain = self.type == IoType::bfloat16;
  exported->tensor = {
      .dl_tensor = {.data = self.data,
                    .device = {self.device->dlpack_type(), self.device->ordinal()},
                    .ndim = static_cast<std::int32_t>(self.shape.size()),
                    .dtype = {static_cast<std::uint8_t>(brain ? 4 : 2),
                              static_cast<std::uint8_t>(8 * cuda::bytes_of(self.type)), 1},
                    .shape = exported->array.shape.data(),
                    .strides = nullptr,
                    .byte_offset = 0},
      .manager_ctx = exported.get(),
      .deleter = [](DLManagedTensor* t) { delete static_cast<Exported*>(t->manager_ctx); }};
  const py::capsule capsule(&exported->tensor, "dltensor", [](PyObject* object) {
    if (PyCapsule_IsValid(object, "dltensor") == 0) return;  // consumed: its owner deletes it
    auto* tensor = static_cast<DLManagedTensor*>(PyCapsule_GetPointer(object, "dltensor"));
    tensor->deleter(tensor);
  });
  exported.release();
  return capsule;
}

py::dict cuda_array_interface(const DeviceArray& self) {
  if (self.device->dlpack_type() != 2 || self.type == IoType::bfloat16)
    throw py::attribute_error("no CUDA array interface for this memory or type: use DLPack");
  const std::uintptr_t stream = self.device->stream();
  return py::dict("shape"_a = py::tuple(py::cast(self.shape)),
                  "typestr"_a = self.type == IoType::float32 ? "<f4" : "<f2",
                  "data"_a = py::make_tuple(reinterpret_cast<std::uintptr_t>(self.data), false),
                  "strides"_a = py::none(), "version"_a = 3,
                  "stream"_a = stream == 0 ? 1 : stream);  // 1: the legacy default stream
}

void write(const DeviceArray& self, const py::array& values) {
  const bool contiguous = (values.flags() & py::array::c_style) != 0;
  if (!contiguous || static_cast<std::size_t>(values.nbytes()) != self.bytes())
    throw py::value_error("values must be contiguous and of " + std::to_string(self.bytes()) +
                          " bytes");
  self.device->enter();
  self.device->upload(self.data, values.data(), self.bytes());
  self.device->synchronise();
}

DeviceArray empty(const std::shared_ptr<Device>& device, std::vector<std::int64_t> shape,
                  const std::string& type) {
  DeviceArray array{.device = device, .shape = std::move(shape), .type = type_named(type)};
  device->enter();
  // The memory goes before the device: its deleter holds both.
  array.owner = std::shared_ptr<cuda::Memory>(new cuda::Memory(*device, array.bytes()),
                                              [device](cuda::Memory* memory) { delete memory; });
  array.data = std::static_pointer_cast<cuda::Memory>(array.owner)->data();
  return array;
}

}  // namespace

std::size_t DeviceArray::bytes() const {
  std::size_t count = cuda::bytes_of(type);
  for (const std::int64_t n : shape) count *= static_cast<std::size_t>(n);
  return count;
}

IoType type_named(const std::string& name) {
  for (std::size_t i = 0; i < type_names.size(); ++i)
    if (name == type_names[i]) return static_cast<IoType>(i);
  throw py::value_error("an engine's type is float32, float16 or bfloat16, got " + name);
}

std::string name_of(IoType type) { return type_names[static_cast<std::size_t>(type)]; }

void bind_device(py::module_& m) {
  // Local: the tests' module has the same classes in the same process.
  py::class_<DeviceArray>(m, "DeviceArray", py::module_local(),
                          "A contiguous array in device memory, for DLPack and the CUDA array "
                          "interface.")
      .def_property_readonly("shape",
                             [](const DeviceArray& a) { return py::tuple(py::cast(a.shape)); })
      .def_property_readonly("dtype", [](const DeviceArray& a) { return name_of(a.type); })
      .def_property_readonly(
          "pointer", [](const DeviceArray& a) { return reinterpret_cast<std::uintptr_t>(a.data); })
      .def_property_readonly("nbytes", &DeviceArray::bytes)
      .def_property_readonly("__cuda_array_interface__", &cuda_array_interface)
      .def("__dlpack__", &dlpack, "A capsule; the memory is idle when it is returned.")
      .def("__dlpack_device__",
           [](const DeviceArray& a) {
             return py::make_tuple(a.device->dlpack_type(), a.device->ordinal());
           })
      .def("write", &write, "values"_a, "Copy a NumPy array of as many bytes; waits.");
  py::class_<Device, std::shared_ptr<Device>>(m, "Device", py::module_local(),
                                              "One stream of one device.")
      .def_property_readonly("name", &Device::name)
      .def_property_readonly("stream", &Device::stream, "What engines enqueue on, as an integer.")
      .def_property_readonly(
          "memory",
          [](Device& device) {
            device.enter();
            const cuda::MemoryInfo info = device.memory();
            return py::make_tuple(info.free, info.total);
          },
          "Bytes free and in all.")
      .def(
          "synchronise",
          [](Device& device) {
            device.enter();
            device.synchronise();
          },
          py::call_guard<py::gil_scoped_release>())
      .def("empty", &empty, "shape"_a, "dtype"_a, "A new array of zeros.");
}

}  // namespace omni_rt
