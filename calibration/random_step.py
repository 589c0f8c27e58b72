"""A step of any size with random rounded weights: for compilers, whose work depends on sizes alone.

The graph is traced and rounded by the code that makes real bundles; only the numbers are made up.
A full-size one asks for 11 GB of free disk: 16-bit weights are written first, then the rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from omni_rt.bundle import Bundle
from omni_rt.calibration.formats import FORMATS, Format
from omni_rt.calibration.graph_writer import Recipe, StageGraph
from omni_rt.calibration.groups import Group
from omni_rt.calibration.random_stages import write_random_stages
from omni_rt.calibration.recipes import is_rounded
from omni_rt.calibration.smooth import Folds, Smoothing, by_matrix
from omni_rt.export.config import ModelConfig
from omni_rt.export.contract import model_stage
from omni_rt.export.graphs import tensors_of
from omni_rt.export.pack import copy_files, list_files, new_directory
from omni_rt.export.random_checkpoint import sizes_for
from omni_rt.export.weight_file import WeightFile
from omni_rt.manifest import write_manifest
from omni_rt.targets import Target

Progress = Callable[[str], None]

_LARGEST = 8.0  # of every activation, as made up as the weights
_STAGE = "dit_step"
_LAST_OF_LAYERS = ("to_out.weight", "ff.ff.2.weight")


def write_random_step(
    out: Path,
    config: ModelConfig,
    target: Target,
    *,
    depth: int | None = None,
    seed: int = 0,
    progress: Progress = lambda _: None,
) -> Path:
    """Write a bundle with one stage, `dit_step`, of a configuration's sizes. Returns its path.

    It is uncertified: what it computes means nothing. Raises ExportError if it cannot be written.
    """
    config = replace(config, depth=depth or config.depth)
    module, format = model_stage(_STAGE, sizes_for(config)).module, FORMATS[target.formats[_STAGE]]
    values = sum(tensor.numel() for tensor in tensors_of(module).values())
    with (
        new_directory(out, needed_bytes=4 * values, overwrite=False) as draft,
        TemporaryDirectory(dir=draft.parent) as folder,
    ):
        source = Path(folder)
        progress(f"{values / 1e6:.0f} million weights, depth {config.depth}")
        manifest = write_random_stages(source, config, [_STAGE], seed=seed, half=True)
        unrounded, spec = Bundle(source, manifest), manifest.graphs[_STAGE]
        copy_files(unrounded, draft, keep=lambda path: not path.startswith("graphs/"))
        (draft / "graphs").mkdir()
        file = WeightFile(draft / spec.data[0])
        progress(f"rounding them for {target.name}")
        try:
            graph = StageGraph(unrounded, _STAGE)
            graph.write(_made_up_recipe(graph, format), file)
        finally:
            file.close()
        rounded = replace(spec, precision=format.precision, opset=format.opset)
        files = list_files(draft)
        write_manifest(replace(manifest, graphs={_STAGE: rounded}, files=files), draft)
    return out


def _made_up_recipe(graph: StageGraph, format: Format) -> Recipe:
    """Everything that a real step's recipe rounds, as if it had been observed."""
    sizes = {}
    if format.activation == "fp8":
        made = [name for names in graph.groups() for name in names]
        given = [port.name for port in graph.spec.inputs]
        sizes = dict.fromkeys([*made, *given], _LARGEST)
    return Recipe(
        format=format,
        smoothings=by_matrix(_made_up_smoothings(graph, format)),
        folds=Folds(()),
        fold_id="random",
        attention=sizes,
    )


def _made_up_smoothings(graph: StageGraph, format: Format) -> Iterator[Smoothing]:
    """Scales for each token are where a trained model's search takes most of them."""
    for names in graph.groups():
        if is_rounded(names[0]):
            one = torch.ones(graph.tensors[names[0]].shape[1])
            yield Smoothing(
                group=Group(matrices=names, divided=()),
                factor=one,
                alpha=None,
                largest=_LARGEST,
                rows=one[:0, None].expand(0, len(one)),
                error=0.0,
                per_token=format.offers_per_token and names[0].endswith(_LAST_OF_LAYERS),
            )
