"""The checkpoint's folder: parts are put in one by one, in the official names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from omni_rt.errors import ExportError
from omni_rt.export.config import read_config
from omni_rt.export.miniature import checkpoint
from omni_rt.export.miniature.checkpoint import MODEL_FILE, get, put
from omni_rt.export.miniature.fit_vae import fitted_vae
from omni_rt.export.miniature.model import miniature_sizes, new_model, new_synchformer
from omni_rt.export.reference.model import AUTOENCODER, parameter_shapes
from omni_rt.export.reference.synchformer import VISUAL, open_synchformer
from omni_rt.export.text_files import check_vocabulary, read_prompts
from omni_rt.preprocess.transcript import read_vocabulary


def test_parts_stand_beside_each_other_and_replace_only_themselves(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path, vae, model = tmp_path / MODEL_FILE, fitted_vae(0, clips=200), new_model()
    put(vae, AUTOENCODER, path, part="vae", facts={"command": "one"})
    put(model, "", path, part="transformer", facts={"command": "two"})
    put(vae, AUTOENCODER, path, part="vae", facts={"command": "three"})
    with safe_open(path, framework="pt") as file:
        assert file.metadata() == {"vae.command": "three", "transformer.command": "two"}
        own = set(file.keys())
        stored = {name: file.get_slice(name).get_dtype() for name in own}
    assert own == set(parameter_shapes(miniature_sizes()))
    exact = {name for name, dtype in stored.items() if dtype != "BF16"}
    assert exact == {"model.model.transformer.rotary_pos_emb.inv_freq"}
    read = fitted_vae(1, clips=200)
    get(read, AUTOENCODER, path)
    pairs = zip(read.state_dict().values(), vae.state_dict().values(), strict=True)
    assert all(torch.equal(a, b.bfloat16().float()) for a, b in pairs)
    assert not any(parameter.requires_grad for parameter in read.parameters())


def test_what_is_not_there_or_is_another_is_refused(tmp_path: Path) -> None:
    path, vae = tmp_path / MODEL_FILE, fitted_vae(0, clips=200)
    with pytest.raises(ExportError, match="train its parts first"):
        get(vae, AUTOENCODER, path)
    put(vae.decoder, AUTOENCODER + "decoder.", path, part="half", facts={})
    with pytest.raises(ExportError, match="not trained yet"):
        get(vae, AUTOENCODER, path)
    narrow = torch.nn.Linear(2, 2)
    put(narrow, "line.", path, part="line", facts={})
    with pytest.raises(ExportError, match="another configuration"):
        get(torch.nn.Linear(3, 2), "line.", path)
    path.write_bytes(b"no file of tensors")
    with pytest.raises(ExportError, match="no whole safetensors file"):
        get(narrow, "line.", path)


def test_its_texts_are_what_the_exporter_reads(tmp_path: Path) -> None:
    checkpoint.write_texts(tmp_path)
    read_config(tmp_path / checkpoint.CONFIG_FILE)
    read_prompts(tmp_path / checkpoint.PROMPTS_FILE)
    rows = miniature_sizes().conditioners.vocabulary
    check_vocabulary(tmp_path / checkpoint.CHARACTERS_FILE, rows=rows)
    assert read_vocabulary(tmp_path / checkpoint.CHARACTERS_FILE)[" "] == 0
    assert checkpoint.words_of(tmp_path).sizes.vocabulary < 1000


def test_its_synchformer_is_one_of_the_official_form(tmp_path: Path) -> None:
    path = tmp_path / checkpoint.SYNCHFORMER_FILE
    put(new_synchformer(), VISUAL, path, part="synchformer", facts={})
    sizes, _ = open_synchformer(path, heads=1)
    assert sizes == new_synchformer().sizes
