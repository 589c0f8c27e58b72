"""Trace several stages, in this process or in several others.

The others are plain subprocesses that answer stage names with traced graphs: a script that exports
needs no `__main__` guard, and Ctrl-C reaches this process alone, which then stops them.
"""

from __future__ import annotations

import os
import pickle
import queue
import subprocess
import sys
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Thread

from omni_rt.errors import ExportError
from omni_rt.export.contract import MODEL_STAGES, SYNCHFORMER, model_stage, thinker_stage
from omni_rt.export.graphs import Stage, traced_bytes
from omni_rt.export.reference.model import ModelSizes
from omni_rt.export.reference.synchformer import SynchformerSizes
from omni_rt.export.reference.thinker_config import ThinkerSizes
from omni_rt.export.synchformer_stage import synchformer_stage


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSizes:
    """What every stage's module is built from."""

    model: ModelSizes
    thinker: ThinkerSizes | None
    synchformer: SynchformerSizes | None

    def stage(self, name: str) -> Stage:
        """The stage of this name, without weight storage."""
        if name in MODEL_STAGES:
            return model_stage(name, self.model)
        if name == SYNCHFORMER:
            assert self.synchformer is not None
            return synchformer_stage(self.synchformer)
        assert self.thinker is not None
        return thinker_stage(name, self.thinker, self.model)


def traced_stages(
    names: Sequence[str], sizes: StageSizes, *, workers: int
) -> Generator[bytes, None, None]:
    """The traced graph of each stage, in order. Close the generator to stop early.

    Raises ExportError if a stage cannot be traced or a worker dies.
    """
    if workers == 1:
        for name in names:
            yield traced_bytes(sizes.stage(name))
        return
    waiting: queue.SimpleQueue[str | None] = queue.SimpleQueue()
    for task in [*reversed(names), *[None] * workers]:
        waiting.put(task)  # the last stages take longest, so they start first
    results: dict[str, Future[bytes]] = {name: Future() for name in names}
    processes = [_start_worker() for _ in range(workers)]
    threads = [
        Thread(target=_serve, args=(process, sizes, waiting, results), daemon=True)
        for process in processes
    ]
    try:
        for thread in threads:
            thread.start()
        for name in names:
            yield results[name].result()
    finally:
        for process in processes:
            process.kill()
            process.wait()


# Without the current directory on the path: nothing that lies there is imported.
_WORKER = """
import sys
sys.path[:] = [entry for entry in sys.path if entry]
from omni_rt.export.tracing import work
work()
"""


def _start_worker() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _serve(
    process: subprocess.Popen[bytes],
    sizes: StageSizes,
    waiting: queue.SimpleQueue[str | None],
    results: dict[str, Future[bytes]],
) -> None:
    """Hand stage names to one worker until none is left, and its answers on."""
    while (name := waiting.get()) is not None:
        try:
            answer = _ask(process, sizes, name)
        except (OSError, EOFError, pickle.UnpicklingError):
            answer = f"its worker died (status {process.poll()}): out of memory?"
        if isinstance(answer, bytes):
            results[name].set_result(answer)
        else:
            results[name].set_exception(ExportError(f"{name}: cannot be traced: {answer}"))


def _ask(process: subprocess.Popen[bytes], sizes: StageSizes, name: str) -> bytes | str:
    """A worker's answer: a traced graph, or what went wrong."""
    assert process.stdin is not None
    assert process.stdout is not None
    pickle.dump((sizes, name), process.stdin)
    process.stdin.flush()
    answer: bytes | str = pickle.load(process.stdout)
    return answer


def work() -> None:
    """Answer requests on standard input until it ends; what the libraries print goes nowhere."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    while True:
        try:
            sizes, name = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer: bytes | str = traced_bytes(sizes.stage(name))
        except Exception as error:
            answer = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        pickle.dump(answer, answers)
        answers.flush()
