"""Compiling one stage, in a process of its own: its memory is measured and given back."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from omni_rt.bench import peak_rss_bytes
from omni_rt.bundle import Bundle
from omni_rt.engines.tensorrt import CAPTURED
from omni_rt.errors import ExportError
from omni_rt.export.engines.build_progress import Phases, Tell
from omni_rt.export.engines.graph_files import prepare
from omni_rt.export.engines.profiles import Buckets, profiles_of
from omni_rt.export.engines.proof import prove
from omni_rt.export.engines.tensorrt import compile_graph
from omni_rt.manifest import EngineSpec, ProfileSpec, read_manifest

Job = TypeVar("Job")
Made = TypeVar("Made")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageJob:
    """One stage to be compiled: all that the process which does it is told."""

    bundle: Path
    stage: str
    plan: Path  # to be written
    stored_as: str  # the plan's path in the bundle that it is made for
    library: str
    compute_capability: str
    buckets: Buckets
    timing_cache: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageBuild:
    """What compiling a stage came to; not signed yet."""

    spec: EngineSpec
    version: str  # of the library


def compile_stage(job: StageJob, tell: Tell = lambda _: None) -> StageBuild:
    """Compile, prove and write one stage's plan. Ctrl-C ends it at the compiler's next step.

    Call it in a process's main thread, which alone may handle signals. Raises EngineError if the
    library is missing, ExportError if the graph cannot be built or a rounded product is not
    computed as rounded. Attention of the step has to be fused: it runs at every step.
    """
    bundle = Bundle(job.bundle, read_manifest(job.bundle))
    profiles = profiles_of(job.stage, bundle.manifest.dims, job.buckets)
    phases = Phases(tell)
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN  # in a shell's background jobs
    if not ignored:
        signal.signal(signal.SIGINT, lambda *_: phases.stop())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    with TemporaryDirectory() as folder:
        graph = prepare(bundle, job.stage, Path(folder))
        plan = compile_graph(
            graph.path,
            {port.name: port.shape for port in bundle.graph(job.stage).inputs},
            profiles,
            library=job.library,
            compute_capability=job.compute_capability,
            captured=job.stage == CAPTURED,
            timing_cache=job.timing_cache,
            phases=phases,
        )
    proof = prove(
        job.stage,
        graph.expected,
        plan.compiled.layers,
        profiles=len(profiles),
        fused=job.stage == CAPTURED,
    )
    job.plan.write_bytes(plan.data)
    return StageBuild(
        version=plan.version,
        spec=EngineSpec(
            path=job.stored_as,
            graph=bundle.graph_digest(job.stage),
            base_type=graph.base.base,
            base_reason=graph.base.reason,
            profiles=tuple(
                ProfileSpec(sizes=sizes, activation_bytes=needed)
                for sizes, needed in zip(profiles, plan.compiled.activation_bytes, strict=True)
            ),
            weight_bytes=plan.compiled.weight_bytes,
            build_s=plan.seconds,
            build_peak_rss_bytes=peak_rss_bytes(),
            rounded_products=proof.rounded_products,
            fused_attentions=proof.fused_attentions,
            attentions=proof.attentions,
            signature="",
        ),
    )


def in_own_process(
    work: Callable[[Job, Tell], Made], job: Job, tell: Tell = lambda _: None
) -> Made:
    """What `work` makes of a job, in a new process. What it tells is told here, and what it raises
    is raised here.

    Ctrl-C reaches `work` once it unblocks the signal: what is done before is too short to be asked.
    Raises ExportError if the process is killed, as it is when memory runs out.
    """
    context = multiprocessing.get_context("spawn")
    heard, told = context.Pipe(duplex=False)
    listener = threading.Thread(target=_pass_on, args=(heard, tell), daemon=True)
    listener.start()
    try:
        with ProcessPoolExecutor(
            max_workers=1, mp_context=context, initializer=_tell_through, initargs=(told,)
        ) as pool:
            with _without_interrupts():
                made = pool.submit(_worked, work, job)
            return made.result()
    except BrokenProcessPool as error:
        raise ExportError(
            "the compiler's process was killed: out of memory? (omni-rt build --stages builds "
            "some at a time)"
        ) from error
    finally:
        told.close()
        listener.join()
        heard.close()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C waits until afterwards. A process that is begun meanwhile begins without it too."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _pass_on(heard: Connection, tell: Tell) -> None:
    """Lines of the other process, until nobody can write any more."""
    while True:
        try:
            tell(heard.recv())
        except EOFError:
            return


_to_parent: Connection | None = None  # of the process that works


def _tell_through(connection: Connection) -> None:
    global _to_parent
    _to_parent = connection


def _worked(work: Callable[[Job, Tell], Made], job: Job) -> Made:
    assert _to_parent is not None
    return work(job, _to_parent.send)
