#pragma once

#include <cstdint>

/// The part of the DLPack ABI (dmlc.github.io/dlpack, unversioned) that a capsule "dltensor" has.
extern "C" {

struct DLDevice {
  std::int32_t device_type;  // 1: processor, 2: CUDA
  std::int32_t device_id;
};

struct DLDataType {
  std::uint8_t code;  // 2: float, 4: bfloat
  std::uint8_t bits;
  std::uint16_t lanes;
};

struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t* shape;
  std::int64_t* strides;  // null: contiguous
  std::uint64_t byte_offset;
};

struct DLManagedTensor {
  DLTensor dl_tensor;
  void* manager_ctx;
  void (*deleter)(DLManagedTensor*);
};
}
