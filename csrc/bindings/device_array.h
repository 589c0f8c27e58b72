#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "cuda/device.h"

namespace omni_rt {

/// A contiguous array in a device's memory, kept alive by whoever holds this or a capsule of it.
struct DeviceArray {
  std::shared_ptr<cuda::Device> device;
  std::shared_ptr<void> owner;  // of the memory
  void* data = nullptr;
  std::vector<std::int64_t> shape;
  cuda::IoType type = cuda::IoType::float32;

  [[nodiscard]] std::size_t bytes() const;
};

/// "float32", "float16", "bfloat16". Throws value_error for another.
cuda::IoType type_named(const std::string& name);
std::string name_of(cuda::IoType type);

/// Array, then device classes: what engines allocate and read by DLPack.
void bind_device(pybind11::module_& m);

}  // namespace omni_rt
