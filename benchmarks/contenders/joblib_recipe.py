"""The recipe that people copy: joblib's Spark backend, a part of the trials in each task."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import joblib
import joblibspark
import optuna

from benchmarks.contenders.optuna_parts import have_study, sampler
from benchmarks.contenders.protocol import serve, spark_session
from benchmarks.work import Objective, Work


@contextlib.contextmanager
def prepare(work: Work, url: str) -> Iterator[Callable[[], None]]:
    """Create the study; what counts are the tasks."""
    have_study(work, url)
    objective = Objective.of(work)
    parts = [len(range(slot, work.trials, work.slots)) for slot in range(work.slots)]

    def run() -> None:
        with joblib.parallel_backend("spark", n_jobs=work.slots):
            joblib.Parallel(verbose=0)(
                joblib.delayed(_optimize)(work, url, objective, part) for part in parts if part
            )

    yield run


def _optimize(work: Work, url: str, objective: Objective, trials: int) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(study_name=work.study, storage=url, sampler=sampler(work))
    study.optimize(objective, n_trials=trials)


if __name__ == "__main__":
    session = spark_session()
    joblibspark.register_spark()
    serve(prepare)
    session.stop()
