"""Options of all commands, those of other layers too: the same thing has one name and one text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from typing import Any

import pytest
import typer

from omni_rt import cli


@pytest.fixture(scope="module")
def commands() -> Mapping[str, Any]:
    """Every command by its name, as click has it."""
    others = typer.Typer()
    for entry in entry_points(group="omni_rt.commands"):
        entry.load()(others)
    return {**_commands(cli.app), **_commands(others)}


def _commands(app: typer.Typer) -> dict[str, Any]:
    group: Any = typer.main.get_command(app)
    return dict(group.commands)


def _options(commands: Mapping[str, Any], name: str) -> Iterator[tuple[str, Any]]:
    """The option of this name, of each command that has it."""
    for command, made in commands.items():
        for parameter in made.params:
            if name in parameter.opts:
                yield command, parameter


@pytest.mark.parametrize(
    ("name", "some", "texts"),
    [
        ("--json", {"generate", "plan", "export", "build", "sizes", "bench-step", "distill"}, 1),
        ("--overwrite", {"export", "build", "quantise", "fit-solver", "measure-presets"}, 2),
        ("--memory", {"generate", "plan"}, 1),
        ("--engine", {"generate", "fit-solver", "score"}, 1),
        ("--stages", {"export", "build"}, 1),
    ],
)
def test_an_option_says_the_same_in_every_command(
    commands: Mapping[str, Any], name: str, some: set[str], texts: int
) -> None:
    """But for --overwrite of `distill`, which replaces no bundle."""
    found = dict(_options(commands, name))
    assert some <= found.keys()
    assert len({option.help for option in found.values()}) == texts


def test_guidance_is_given_by_either_of_two_names(commands: Mapping[str, Any]) -> None:
    long, short = "--cfg-scale", "--cfg"
    found = dict(_options(commands, long))
    assert found.keys() == dict(_options(commands, short)).keys()
    assert found.keys() >= {
        *("generate", "edit", "compare", "score", "demo", "quantise", "fit-solver"),
        *("measure-presets", "distill"),
    }
    assert all(option.opts == [long, short] for option in found.values())
