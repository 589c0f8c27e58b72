"""The few calls of NVIDIA's driver that an engine needs, through ctypes: no toolkit, no package.

Addresses and streams are plain integers, as TensorRT and the array interfaces take them.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from omni_rt.engines import Array
from omni_rt.errors import EngineError, OutOfMemoryError

_LIBRARY = "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
_OUT_OF_MEMORY, _INVALID_DEVICE = 2, 101


class CudaDriver:
    """A GPU and its primary context, which other CUDA libraries of this process share.

    It is let go with this, which everything that was made with it has to hold. Calls may come from
    any thread. Raises EngineError where there is no driver or no such GPU, and when a call fails;
    after a fork, since a context does not survive it.
    """

    def __init__(self, library: Any = None, *, ordinal: int = 0) -> None:
        self._cuda = _load() if library is None else library
        self._process = os.getpid()
        self._check("cuInit", 0)
        self._device = ctypes.c_int()
        self._get_device(ordinal)
        self._context = ctypes.c_void_p()
        self._check("cuDevicePrimaryCtxRetain", ctypes.byref(self._context), self._device)
        released = weakref.finalize(
            self, _let_go, self._cuda.cuDevicePrimaryCtxRelease_v2, self._device, self._process
        )
        released.atexit = False  # the driver ends with its process
        self.use()

    def _get_device(self, ordinal: int) -> None:
        code = self._cuda.cuDeviceGet(ctypes.byref(self._device), ordinal)
        if code == _INVALID_DEVICE:
            count = ctypes.c_int()
            self._check("cuDeviceGetCount", ctypes.byref(count))
            raise EngineError(f"there is no CUDA device {ordinal}: {count.value} visible")
        self._raise_for("cuDeviceGet", code)

    def use(self) -> None:
        """Make the GPU's context this thread's."""
        if self._forked:
            raise EngineError(
                "this process was forked after a GPU was opened: start workers with 'spawn', or "
                "open sessions after the fork"
            )
        self._check("cuCtxSetCurrent", self._context)

    @property
    def name(self) -> str:
        """The GPU's name."""
        text = ctypes.create_string_buffer(256)
        self._check("cuDeviceGetName", text, len(text), self._device)
        return text.value.decode(errors="replace")

    @property
    def compute_capability(self) -> str:
        """As "8.9"."""
        return f"{self._attribute(_MAJOR)}.{self._attribute(_MINOR)}"

    @property
    def version(self) -> str:
        """The newest CUDA that the driver runs, as "12.6"."""
        found = ctypes.c_int()
        self._check("cuDriverGetVersion", ctypes.byref(found))
        return f"{found.value // 1000}.{found.value % 1000 // 10}"

    def memory_bytes(self) -> tuple[int, int]:
        """Free memory, and all of it."""
        free, whole = ctypes.c_size_t(), ctypes.c_size_t()
        self._check("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(whole))
        return free.value, whole.value

    def allocate(self, size: int) -> int:
        """So many bytes of the GPU's memory. Raises OutOfMemoryError saying how many are free."""
        address = ctypes.c_uint64()
        code = self._cuda.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(max(size, 1)))
        if code == _OUT_OF_MEMORY:
            free, whole = self.memory_bytes()
            raise OutOfMemoryError(
                f"GPU memory: {size / 1e6:.0f} MB are needed, {free / 1e6:.0f} of "
                f"{whole / 1e6:.0f} MB are free"
            )
        self._raise_for("cuMemAlloc_v2", code)
        return address.value

    def free(self, address: int) -> None:
        """Give memory back."""
        self._check("cuMemFree_v2", ctypes.c_uint64(address))

    def give_back(self, address: int) -> None:
        """Give memory back when its owner is gone; nothing in a process that was forked since."""
        if not self._forked:
            self.use()
            self.free(address)

    def upload(self, address: int, array: Array, stream: int) -> None:
        """Copy a contiguous array to the GPU, in order with the stream's other work."""
        self._check(
            "cuMemcpyHtoDAsync_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(stream),
        )

    def download(self, array: Array, address: int, stream: int) -> None:
        """Copy from the GPU into a contiguous array. It is there once the stream is waited for."""
        self._check(
            "cuMemcpyDtoHAsync_v2",
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_uint64(address),
            ctypes.c_size_t(array.nbytes),
            ctypes.c_void_p(stream),
        )

    def new_stream(self) -> int:
        """A stream that does not wait for the default one."""
        stream = ctypes.c_void_p()
        self._check("cuStreamCreate", ctypes.byref(stream), 1)  # CU_STREAM_NON_BLOCKING
        assert stream.value is not None
        return stream.value

    def end_stream(self, stream: int) -> None:
        """Let go of a stream when its owner is gone; nothing in a process forked since."""
        if not self._forked:
            self.use()
            self._check("cuStreamDestroy_v2", ctypes.c_void_p(stream))

    def wait(self, stream: int) -> None:
        """Return when all that was given to a stream is done."""
        self._check("cuStreamSynchronize", ctypes.c_void_p(stream))

    @property
    def _forked(self) -> bool:
        return os.getpid() != self._process

    def _attribute(self, which: int) -> int:
        found = ctypes.c_int()
        self._check("cuDeviceGetAttribute", ctypes.byref(found), which, self._device)
        return found.value

    def _check(self, name: str, *arguments: Any) -> None:
        call: Callable[..., int] = getattr(self._cuda, name)
        self._raise_for(name, call(*arguments))

    def _raise_for(self, name: str, code: int) -> None:
        if code:
            text = ctypes.c_char_p()
            self._cuda.cuGetErrorString(code, ctypes.byref(text))
            said = (text.value or b"unknown error").decode(errors="replace")
            raise EngineError(f"CUDA: {name}: {said} ({code})")


def _let_go(release: Callable[..., int], device: ctypes.c_int, process: int) -> None:
    """Release the primary context. That it cannot be, in a process that ends, matters to nobody."""
    if os.getpid() == process:
        release(device)


def _load() -> Any:
    try:
        return ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise EngineError(
            "no NVIDIA driver: this engine needs a GPU; --engine onnxruntime runs without one"
        ) from error


def address_of(array: object) -> int | None:
    """Where a buffer lies in the GPU's memory, or None for one of NumPy's."""
    facts = getattr(array, "__cuda_array_interface__", None)
    return None if facts is None or isinstance(array, np.ndarray) else int(facts["data"][0])
