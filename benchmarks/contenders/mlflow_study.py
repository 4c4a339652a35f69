"""MLflow's `MlflowSparkStudy`, with its tracking store in the same database."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

import mlflow
import optuna
from mlflow.optuna.storage import MlflowStorage
from mlflow.pyspark.optuna.study import MlflowSparkStudy

from benchmarks.contenders.optuna_parts import sampler
from benchmarks.contenders.protocol import serve, spark_session
from benchmarks.work import Objective, Work


@contextlib.contextmanager
def prepare(work: Work, url: str) -> Iterator[Callable[[], None]]:
    """Create the experiment and the study; what counts is `optimize`."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    mlflow.set_tracking_uri(url)
    experiment = mlflow.create_experiment(work.study)
    storage = MlflowStorage(experiment_id=experiment)
    study = MlflowSparkStudy(work.study, storage, sampler=sampler(work), mlflow_tracking_uri=url)
    objective = Objective.of(work)
    # One task for each slot is its fastest: by default each trial loads the study anew.
    yield lambda: study.optimize(objective, n_trials=work.trials, n_jobs=work.slots)


if __name__ == "__main__":
    session = spark_session()
    serve(prepare)
    session.stop()
