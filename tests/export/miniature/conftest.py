from __future__ import annotations

from pathlib import Path

import pytest
import torch

from omni_rt.export.contract import THINKER
from omni_rt.export.miniature import checkpoint
from omni_rt.export.miniature.checkpoint import MODEL_FILE, SYNCHFORMER_FILE, put
from omni_rt.export.miniature.fit_vae import fitted_vae
from omni_rt.export.miniature.model import new_model, new_synchformer
from omni_rt.export.miniature.thinker import TrainableThinker
from omni_rt.export.reference.model import AUTOENCODER
from omni_rt.export.reference.synchformer import VISUAL
from omni_rt.export.reference.thinker_files import thinker_shapes


@pytest.fixture(scope="session")
def random_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature before any training, as a checkpoint's folder."""
    folder = tmp_path_factory.mktemp("miniature") / "checkpoint"
    checkpoint.write_texts(folder)
    torch.manual_seed(0)
    model = folder / MODEL_FILE
    facts = {"command": "how it was made", "hours": "1.50"}
    put(new_model(), "", model, part="transformer", facts=facts)
    put(fitted_vae(0, clips=200), AUTOENCODER, model, part="vae", facts={})
    thinker = TrainableThinker(checkpoint.words_of(folder).sizes)
    shapes = thinker_shapes(thinker.sizes)
    put(thinker, THINKER, model, part="thinker", facts={}, shapes=shapes)
    path = folder / SYNCHFORMER_FILE
    put(new_synchformer(), VISUAL, path, part="synchformer", facts={})
    return folder
