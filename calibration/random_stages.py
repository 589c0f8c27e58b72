"""A bundle of some stages with random weights, of any size: for compilers and clocks.

Graphs are traced and written by the code that exports real ones; only the numbers are made up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from omni_rt.export.checkpoint import LazyTensor
from omni_rt.export.config import ModelConfig
from omni_rt.export.contract import dims_of, model_stage
from omni_rt.export.graphs import OPSET, Stage, tensors_of, traced_bytes, write_graph
from omni_rt.export.pack import list_files
from omni_rt.export.random_checkpoint import random_tensor, sizes_for
from omni_rt.export.weight_file import WeightFile
from omni_rt.manifest import SCHEMA, GraphSpec, Manifest, TextSpec, write_manifest


def write_random_stages(
    folder: Path,
    config: ModelConfig,
    stages: Sequence[str],
    *,
    seed: int,
    outliers: bool = False,
    half: bool = False,
) -> Manifest:
    """Write an unrounded bundle of these stages into an empty folder. Returns its manifest.

    It is uncertified: what it computes means nothing. `outliers`: see `random_tensor`; `half`
    stores weights in 16 bits where they can be.
    """
    sizes = sizes_for(config)
    dims = dims_of(sizes)
    (folder / "graphs").mkdir()
    made = [model_stage(name, sizes) for name in stages]
    for stage in made:
        weights = _random_weights(stage, sizes.dit.rotary_width, seed, outliers=outliers)
        file = WeightFile(folder / "graphs" / stage.data_file)
        try:
            write_graph(stage, traced_bytes(stage), weights, file=file, fold_id="random", half=half)
        finally:
            file.close()
    np.savez(
        folder / "constants.npz",
        empty_transcript=np.zeros((1, dims.transcript_tokens, dims.cond_width), np.float32),
    )
    manifest = Manifest(
        schema=SCHEMA,
        name="random-step",
        dims=dims,
        graphs={stage.name: _spec(stage) for stage in made},
        engines={},
        text=TextSpec(tokenizer=None, prompts=None, vocabulary=None, special_ids=None),
        constants="constants.npz",
        parity={},
        plans={},
        default_plan="euler-100",
        files=list_files(folder),
        weights_licence="none: random numbers",
        provenance={"random_seed": seed},
    )
    write_manifest(manifest, folder)
    return manifest


def _spec(stage: Stage) -> GraphSpec:
    return GraphSpec(
        path=f"graphs/{stage.name}.onnx",
        data=(f"graphs/{stage.data_file}",),
        precision="fp32",
        opset=OPSET,
        fold_id="random",
        inputs=stage.ports.inputs,
        outputs=stage.ports.outputs,
    )


def _random_weights(
    stage: Stage, rotary_width: int, seed: int, *, outliers: bool
) -> Mapping[str, LazyTensor]:
    def lazy(name: str, shape: tuple[int, ...]) -> LazyTensor:
        def load() -> Tensor:
            return random_tensor(
                name, shape, seed=seed, rotary_width=rotary_width, outliers=outliers
            )

        return LazyTensor(shape=shape, dtype="float32", load=load)

    return {
        (name := stage.official_name(own)): lazy(name, tuple(tensor.shape))
        for own, tensor in tensors_of(stage.module).items()
    }
