"""What the contenders that are made of Optuna share."""

from __future__ import annotations

import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from benchmarks.work import Work


def sampler(work: Work) -> BaseSampler:
    """The sampler that the work asks for, as Optuna makes it by default."""
    return RandomSampler() if work.sampler == "random" else TPESampler()


def have_study(work: Work, url: str) -> None:
    """Create the work's study where it does not exist yet."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = optuna.storages.RDBStorage(url)
    optuna.create_study(study_name=work.study, storage=storage, load_if_exists=True)
    storage.engine.dispose()  # a process that is forked must not share a connection
