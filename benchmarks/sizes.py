"""How much of each work is done."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Numbers of trials and the like; as they are, two cores take some 25 minutes for all.

    Two cores are busy with a few dozen trials of Ray or MLflow for a minute.
    """

    repeats: int = 3
    patience: float = 60.0  # seconds; a contender that took longer in its first turn has no other
    second_trials: int = 40
    nothing_trials: int = 200
    slow_trials: int = 40  # of contenders that are slow
    tail_trials: int = 30
    tail_seconds: float = 0.4
    counted_trials: int = 80
    slow_counted: int = 20
    history: tuple[int, int] = (100, 10_000)
    growth_trials: int = 160
    captured_trials: int = 50
    captured_mb: int = 100
    wide_slots: int = 256
    wide_trials: int = 1024
    wide_seconds: float = 10.0
    driver_slots: int = 4096
    driver_trials: int = 8192
    quality_trials: int = 200
    seeds: int = 20


SMOKE = Sizes(
    repeats=1,
    second_trials=4,
    nothing_trials=40,
    slow_trials=6,
    tail_trials=8,
    tail_seconds=0.2,
    counted_trials=20,
    slow_counted=12,
    history=(100, 2_000),
    growth_trials=40,
    captured_trials=10,
    captured_mb=20,
    wide_slots=16,
    wide_trials=32,
    wide_seconds=1.0,
    driver_slots=64,
    driver_trials=128,
    quality_trials=20,
    seeds=1,
)
