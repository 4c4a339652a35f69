"""This project."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import optuna

import optuna_spark
from benchmarks.contenders.optuna_parts import sampler
from benchmarks.contenders.protocol import serve, spark_session
from benchmarks.work import Objective, Work


@contextlib.contextmanager
def prepare(work: Work, url: str) -> Iterator[Callable[[], None]]:
    """Create the study; what counts is `optimize`."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna_spark.create_study(
        study_name=work.study,
        storage=url,
        sampler=sampler(work),
        load_if_exists=True,
    )
    objective = Objective.of(work)
    yield lambda: study.optimize(objective, n_trials=work.trials)


if __name__ == "__main__":
    # As in the sessions that this project makes.
    session = spark_session(spark_python_daemon_module="optuna_spark.daemon")
    serve(prepare)
    session.stop()
