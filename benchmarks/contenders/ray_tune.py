"""Ray Tune with `OptunaSearch`, whose study is in the same database."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import optuna
import ray
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from benchmarks import trace
from benchmarks.contenders.optuna_parts import sampler
from benchmarks.contenders.protocol import serve
from benchmarks.work import BOUNDS, Objective, Work


@contextlib.contextmanager
def prepare(work: Work, url: str) -> Iterator[Callable[[], None]]:
    """Start Ray and make the study; what counts is `fit`."""
    # Ray takes processor time even when it waits: it is not to do so while others are measured.
    ray.init(num_cpus=work.slots, include_dashboard=False, logging_level=logging.ERROR)
    try:
        yield _tuner(work, url)
    finally:
        ray.shutdown()


@dataclass
class Space:
    """The parameters; a dictionary of none would be refused, and Ray pickles what it is given."""

    work: Work

    def __call__(self, trial: optuna.Trial) -> None:
        """Ask for all of them."""
        low, high = BOUNDS[self.work.function]
        for index in range(self.work.parameters):
            trial.suggest_float(f"x{index}", low, high)


def _tuner(work: Work, url: str) -> Callable[[], None]:
    objective = Objective.of(work)

    search = OptunaSearch(
        Space(work),
        metric="value",
        mode="min",
        sampler=sampler(work),
        study_name=work.study,
        storage=optuna.storages.RDBStorage(url),
    )

    def trainable(config: dict[str, Any]) -> None:
        number = trace.next_number(work.trace)
        reported = objective.evaluate(
            number,
            lambda index, low, high: float(config[f"x{index}"]),
            lambda value, step: tune.report({"value": value}),
        )
        tune.report({"value": reported})

    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=search, num_samples=work.trials, max_concurrent_trials=work.slots
        ),
        run_config=tune.RunConfig(storage_path=os.path.abspath("ray-results"), verbose=0),
    )

    def run() -> None:
        errors = tuner.fit().errors
        if errors:
            raise errors[0]

    return run


if __name__ == "__main__":
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    serve(prepare)
