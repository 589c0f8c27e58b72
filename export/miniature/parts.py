"""The parts of the miniature by name: how each is trained, measured and put into the checkpoint."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar

from omni_rt.errors import ExportError
from omni_rt.export.contract import THINKER
from omni_rt.export.miniature import checkpoint
from omni_rt.export.miniature.checkpoint import MODEL_FILE, SYNCHFORMER_FILE, Facts
from omni_rt.export.miniature.conditioning import Senses
from omni_rt.export.miniature.data import Example
from omni_rt.export.miniature.fit_vae import empty_vae, fitted_vae
from omni_rt.export.miniature.gate import (
    ANSWER_FLOOR,
    COLOUR_FLOOR,
    VAE_FLOOR,
    answer_shares,
    colour_shares,
    vae_shares,
)
from omni_rt.export.miniature.model import new_synchformer
from omni_rt.export.miniature.share import Share
from omni_rt.export.miniature.text import Words
from omni_rt.export.miniature.thinker import TrainableThinker, answers
from omni_rt.export.miniature.train_synchformer import SynchformerTraining
from omni_rt.export.miniature.train_thinker import ThinkerTraining
from omni_rt.export.miniature.train_transformer import TransformerTraining
from omni_rt.export.miniature.training import Training, best_device
from omni_rt.export.reference import synchformer as reference
from omni_rt.export.reference.autoencoder import Oobleck
from omni_rt.export.reference.model import AUTOENCODER
from omni_rt.export.reference.synchformer import VISUAL
from omni_rt.export.reference.thinker_files import thinker_shapes

Tell = Callable[[str], None]


class Part(ABC):
    """A part, and how its weights are found."""

    name: ClassVar[str]
    default_steps: ClassVar[int]  # 0: found in one step, without a schedule
    measure: ClassVar[str]  # what the shares are shares of
    floor: ClassVar[float]  # every share must reach it

    def __init__(self, states: Path, trained: Path, *, steps: int, seed: int) -> None:
        """`trained` is the checkpoint's folder, with the parts that this one needs."""
        self.states, self.steps, self.seed = states, steps, seed

    @property
    @abstractmethod
    def step(self) -> int:
        """How many steps are done."""

    @property
    @abstractmethod
    def hours(self) -> float:
        """How long they took, of all runs together."""

    @property
    def before(self) -> str:
        """How the weights that it began with were made; empty for random ones."""
        return ""

    @abstractmethod
    def resume(self) -> bool:
        """Go on from the state in the folder `states`, if there is one."""

    def begin_with(self, folder: Path, tell: Tell) -> None:
        """Begin with the weights of a checkpoint instead of random ones.

        Raises ExportError if this part cannot, or if they do not fit.
        """
        raise ExportError(f"only the transformer can begin with other weights, not the {self.name}")

    @abstractmethod
    def train(self, tell: Tell) -> None:
        """Train to the end of the schedule."""

    @abstractmethod
    def put(self, folder: Path, facts: Facts) -> None:
        """Write the weights into a checkpoint's folder."""

    @staticmethod
    @abstractmethod
    def measured(folder: Path, count: int, tell: Tell) -> Mapping[str, Share]:
        """What a checkpoint's part gets right, by kind."""


class Vae(Part):
    name, default_steps = "vae", 0
    measure, floor = "right after the autoencoder", VAE_FLOOR

    def __init__(self, states: Path, trained: Path, *, steps: int, seed: int) -> None:
        super().__init__(states, trained, steps=steps, seed=seed)
        self._vae: Oobleck | None = None
        self._hours = 0.0

    @property
    def step(self) -> int:
        return 0

    @property
    def hours(self) -> float:
        return self._hours

    def resume(self) -> bool:
        return False

    def train(self, tell: Tell) -> None:
        begun = time.monotonic()
        tell("principal components of drawn sounds")
        self._vae = fitted_vae(self.seed)
        self._hours = (time.monotonic() - begun) / 3600

    def put(self, folder: Path, facts: Facts) -> None:
        assert self._vae is not None
        checkpoint.write_texts(folder)
        checkpoint.put(self._vae, AUTOENCODER, folder / MODEL_FILE, part=self.name, facts=facts)

    @staticmethod
    def measured(folder: Path, count: int, tell: Tell) -> Mapping[str, Share]:
        return vae_shares(trained_vae(folder), count=count, tell=tell)


class TrainedPart(Part):
    """A part trained by steps, kept in the folder `states`; what counts is its moving average."""

    training: Training

    @property
    def step(self) -> int:
        return self.training.step

    @property
    def hours(self) -> float:
        return self.training.elapsed_s / 3600

    @property
    def before(self) -> str:
        return self.training.before

    def resume(self) -> bool:
        return self.training.resume()


class Thinker(TrainedPart):
    name, default_steps = "thinker", 4000
    measure, floor = "exact answers", ANSWER_FLOOR

    def __init__(self, states: Path, trained: Path, *, steps: int, seed: int) -> None:
        super().__init__(states, trained, steps=steps, seed=seed)
        self._run = ThinkerTraining(states, steps=steps, seed=seed)
        self.training = self._run.training

    def train(self, tell: Tell) -> None:
        self._run.run(tell)

    def put(self, folder: Path, facts: Facts) -> None:
        checkpoint.write_texts(folder)
        path = folder / MODEL_FILE
        thinker = self._run.average
        checkpoint.put(
            thinker,
            THINKER,
            path,
            part=self.name,
            facts=facts,
            shapes=thinker_shapes(thinker.sizes),
        )

    @staticmethod
    def measured(folder: Path, count: int, tell: Tell) -> Mapping[str, Share]:
        thinker, words = trained_thinker(folder)

        def ask(examples: list[Example]) -> list[str]:
            return answers(thinker, examples, words)

        return answer_shares(ask, count=count, tell=tell)


class Synchformer(TrainedPart):
    name, default_steps = "synchformer", 200
    measure, floor = "colours of tubelets", COLOUR_FLOOR

    def __init__(self, states: Path, trained: Path, *, steps: int, seed: int) -> None:
        super().__init__(states, trained, steps=steps, seed=seed)
        self._run = SynchformerTraining(states, steps=steps, seed=seed)
        self.training = self._run.training

    def train(self, tell: Tell) -> None:
        self._run.run(tell)

    def put(self, folder: Path, facts: Facts) -> None:
        checkpoint.write_texts(folder)
        path = folder / SYNCHFORMER_FILE
        checkpoint.put(self._run.average, VISUAL, path, part=self.name, facts=facts)

    @staticmethod
    def measured(folder: Path, count: int, tell: Tell) -> Mapping[str, Share]:
        return colour_shares(trained_synchformer(folder), count=count, tell=tell)


class Transformer(TrainedPart):
    name, default_steps = "transformer", 5_600
    measure, floor = "", 0.0

    def __init__(self, states: Path, trained: Path, *, steps: int, seed: int) -> None:
        super().__init__(states, trained, steps=steps, seed=seed)
        device = best_device()
        thinker, words = trained_thinker(trained)
        senses = Senses(thinker.to(device), trained_synchformer(trained).to(device), words)
        vae = trained_vae(trained).to(device)
        self._run = TransformerTraining(states, senses, vae, steps=steps, seed=seed)
        self.training = self._run.training

    def begin_with(self, folder: Path, tell: Tell) -> None:
        self._run.begin_with(folder)
        tell(f"{self.name}: begins with {folder}")

    def train(self, tell: Tell) -> None:
        self._run.run(tell)

    def put(self, folder: Path, facts: Facts) -> None:
        checkpoint.write_texts(folder)
        path = folder / MODEL_FILE
        checkpoint.put(self._run.average, "", path, part=self.name, facts=facts)

    @staticmethod
    def measured(folder: Path, count: int, tell: Tell) -> Mapping[str, Share]:
        """Nothing: it is measured in a bundle, by `omni-rt score`."""
        return {}


PARTS: Mapping[str, type[Part]] = {p.name: p for p in (Vae, Thinker, Synchformer, Transformer)}


def trained_vae(folder: Path) -> Oobleck:
    """The checkpoint's autoencoder. Raises ExportError if it is not trained yet."""
    vae = empty_vae()
    checkpoint.get(vae, AUTOENCODER, folder / MODEL_FILE)
    return vae


def trained_synchformer(folder: Path) -> reference.Synchformer:
    """The checkpoint's Synchformer. Raises ExportError if it is not trained yet."""
    synchformer = new_synchformer()
    checkpoint.get(synchformer, VISUAL, folder / SYNCHFORMER_FILE)
    return synchformer


def trained_thinker(folder: Path) -> tuple[TrainableThinker, Words]:
    """The checkpoint's thinker and its words. Raises ExportError if it is not trained yet."""
    words = checkpoint.words_of(folder)
    thinker = TrainableThinker(words.sizes)
    checkpoint.get(thinker, THINKER, folder / MODEL_FILE)
    return thinker, words
