"""Hyperopt's `SparkTrials`: the driver samples, and keeps the trials in its memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from hyperopt import SparkTrials, fmin, hp, rand, tpe

from benchmarks import trace
from benchmarks.contenders.protocol import serve, spark_session
from benchmarks.work import BOUNDS, Objective, Work


@contextlib.contextmanager
def prepare(work: Work, url: str) -> Iterator[Callable[[], None]]:
    """Make the search space; what counts is `fmin`."""
    low, high = BOUNDS[work.function]
    space = [hp.uniform(f"x{index}", low, high) for index in range(work.parameters)]
    objective = Objective.of(work)
    algorithm = rand.suggest if work.sampler == "random" else tpe.suggest

    def evaluate(point: list[float]) -> float:
        number = trace.next_number(work.trace)
        return objective.evaluate(number, lambda index, low, high: point[index])

    def run() -> Any:
        trials = SparkTrials(parallelism=work.slots, spark_session=session)
        return fmin(
            evaluate,
            space,
            algorithm,
            max_evals=work.trials,
            trials=trials,
            show_progressbar=False,
            verbose=False,
        )

    yield run


if __name__ == "__main__":
    session = spark_session()
    serve(prepare)
    session.stop()
