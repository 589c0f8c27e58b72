"""The GPU's memory of copies: kept from one run of a plan to the next."""

from __future__ import annotations

import weakref

from omni_rt.engines.cuda_driver import CudaDriver

_SPARE = 8  # a part of so many is added to what had to grow: an answer grows token by token


class PortMemory:
    """One piece of the GPU's memory for each port; all are given back with this."""

    def __init__(self, driver: CudaDriver) -> None:
        self._driver = driver
        self._pieces: dict[str, tuple[int, int]] = {}  # address and bytes, by port
        released = weakref.finalize(self, _free, driver, self._pieces)
        released.atexit = False  # the driver frees what a process that ends still holds

    def room(self, port: str, size: int) -> int:
        """The address of at least `size` bytes for a port; what lay there may be lost.

        Raises OutOfMemoryError.
        """
        address, held = self._pieces.get(port, (0, 0))
        if address and size <= held:
            return address
        if address:
            del self._pieces[port]
            self._driver.free(address)
            size += size // _SPARE
        self._pieces[port] = self._driver.allocate(size), size
        return self._pieces[port][0]


def _free(driver: CudaDriver, pieces: dict[str, tuple[int, int]]) -> None:
    for address, _ in pieces.values():
        driver.give_back(address)
