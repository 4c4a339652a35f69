"""The work that all contenders do: how long each trial takes, and what it computes.

Runs in every contender's environment, and so needs nothing but Python.
"""

from __future__ import annotations

import itertools
import math
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks import trace

TAIL_EXPONENT = 1.5
TAIL_CAP = 20.0  # the longest trial, in shortest ones
TAIL_SEED = 20_000


@dataclass(frozen=True)
class Work:
    """What one contender does in one go."""

    study: str  # a name that is new
    trace: str  # file that takes a line for each finished trial
    trials: int
    slots: int
    parameters: int = 2
    reports: int = 0
    seconds: float = 0.0  # of each trial; with `tail`, of the shortest
    tail: bool = False
    captured_mb: int = 0
    sampler: str = "tpe"  # or "random"
    function: str = "sphere"

    def durations(self) -> list[float]:
        """Seconds of each trial, by its number."""
        if not self.tail:
            return [self.seconds] * self.trials
        return tail_durations(self.trials, self.seconds)

    def ideal(self) -> float:
        """Seconds that the work takes if nothing else costs anything."""
        return ideal_seconds(self.durations(), self.slots)


def tail_durations(trials: int, shortest: float) -> list[float]:
    """Durations with a heavy tail (Pareto), capped, the same each time.

    Example:
        >>> min(tail_durations(100, 0.5)) >= 0.5
        True
    """
    chance = random.Random(TAIL_SEED)
    return [shortest * min(TAIL_CAP, chance.paretovariate(TAIL_EXPONENT)) for _ in range(trials)]


def ideal_seconds(durations: Sequence[float], slots: int) -> float:
    """The least time in which so many slots can run trials of these durations.

    Example:
        >>> ideal_seconds([1.0, 1.0, 1.0, 1.0], 2)
        2.0
        >>> ideal_seconds([1.0, 1.0, 5.0], 2)
        5.0
    """
    return max(sum(durations) / slots, max(durations, default=0.0))


@dataclass
class Objective:
    """The objective in the form that Optuna takes; others call `evaluate`."""

    work: Work
    captured: bytes = field(default=b"", repr=False)

    @classmethod
    def of(cls, work: Work) -> Objective:
        """Make the objective, with what it captures."""
        return cls(work, os.urandom(work.captured_mb * 1_000_000))

    def __call__(self, trial: Any) -> float:
        """Run an Optuna trial."""

        def suggest(index: int, low: float, high: float) -> float:
            return float(trial.suggest_float(f"x{index}", low, high))

        return self.evaluate(trial.number, suggest, trial.report)

    def evaluate(
        self,
        number: int,
        suggest: Callable[[int, float, float], float],
        report: Callable[[float, int], Any] = lambda value, step: None,
    ) -> float:
        """Run one trial.

        Args:
            number: The trial's number, which says how long it takes.
            suggest: Gives the parameter of an index, between two bounds.
            report: Takes an intermediate value and its step.
        """
        began = time.time()
        low, high = BOUNDS[self.work.function]
        point = [suggest(index, low, high) for index in range(self.work.parameters)]
        value = FUNCTIONS[self.work.function](point)
        for step in range(self.work.reports):
            report(value + step, step)
        durations = self.work.durations()
        seconds = durations[number % len(durations)]
        if seconds:
            time.sleep(seconds)
        trace.write(self.work.trace, trace.Line(number, began, time.time(), os.getpid()))
        return value


def sphere(point: Sequence[float]) -> float:
    """Sum of squares; best 0."""
    return sum(x * x for x in point)


def rosenbrock(point: Sequence[float]) -> float:
    """A narrow curved valley; best 0."""
    pairs = itertools.pairwise(point)
    return sum(100 * (y - x * x) ** 2 + (1 - x) ** 2 for x, y in pairs)


def rastrigin(point: Sequence[float]) -> float:
    """A bowl full of local minima; best 0."""
    return sum(x * x - 10 * math.cos(2 * math.pi * x) + 10 for x in point)


def branin(point: Sequence[float]) -> float:
    """Three equal minima, on [-5, 10] x [0, 15]; best 0.398."""
    x, y = point[0], point[1] + 5  # both parameters are between the same bounds here
    valley = y - 5.1 / (4 * math.pi**2) * x * x + 5 / math.pi * x - 6
    return valley**2 + 10 * (1 - 1 / (8 * math.pi)) * math.cos(x) + 10


FUNCTIONS: dict[str, Callable[[Sequence[float]], float]] = {
    "sphere": sphere,
    "rosenbrock": rosenbrock,
    "rastrigin": rastrigin,
    "branin": branin,
}
BOUNDS = {
    "sphere": (-10.0, 10.0),
    "rosenbrock": (-5.0, 10.0),
    "rastrigin": (-5.12, 5.12),
    "branin": (-5.0, 10.0),
}
