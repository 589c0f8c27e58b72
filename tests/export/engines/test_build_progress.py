"""What a compiler reports of its phases: told at intervals, and the way to stop it."""

from __future__ import annotations

from omni_rt.export.engines.build_progress import Phases


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_steps_are_told_at_intervals_and_those_deep_inside_never() -> None:
    clock, told = Clock(), list[str]()
    phases = Phases(told.append, clock=clock)
    phases.begin("Building", None, 2)
    phases.begin("Costs", "Building", 10)
    phases.begin("Tactics", "Costs", 3)
    phases.begin("One Tactic", "Tactics", 7)
    for now, phase, step in (
        (0.1, "Costs", 0),  # too soon
        (1.0, "Costs", 1),
        (1.1, "Costs", 2),
        (2.0, "One Tactic", 0),
        (2.0, "Tactics", 0),
        (9.0, "Building", 1),
    ):
        clock.now = now
        assert phases.step(phase, step)
    assert told == ["costs, 2 of 10", "tactics, 1 of 3", "building, 2 of 2"]


def test_a_phase_that_comes_again_is_counted_from_its_new_parent() -> None:
    clock, told = Clock(), list[str]()
    phases = Phases(told.append, clock=clock)
    phases.begin("a", None, 1)
    phases.begin("b", "a", 1)
    phases.begin("c", "b", 1)
    phases.begin("x", "c", 4)  # too deep
    phases.end("x")
    phases.begin("x", "a", 5)
    clock.now = 1.0
    phases.step("x", 0)
    assert told == ["x, 1 of 5"]


def test_once_stopped_it_asks_to_end() -> None:
    phases = Phases(lambda _: None)
    assert phases.step("a", 0)
    phases.stop()
    assert phases.stopped
    assert not phases.step("a", 1)
