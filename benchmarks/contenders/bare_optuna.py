"""Optuna alone: long-lived processes of `study.optimize` on one database.

They share the budget through memory, which costs nothing and which processes on several hosts
could not: so this is the floor, and not what a user gets without further ado.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import optuna

from benchmarks.contenders.optuna_parts import have_study, sampler
from benchmarks.contenders.protocol import serve
from benchmarks.work import Objective, Work

_START_SECONDS = 120.0

_context = multiprocessing.get_context("fork")


@contextlib.contextmanager
def prepare(work: Work, url: str) -> Iterator[Callable[[], None]]:
    """Start the processes, each with the study loaded; what counts is what they do then."""
    have_study(work, url)
    left = _context.Value("i", work.trials)
    gate = _context.Barrier(work.slots + 1)
    arguments = (work, url, Objective.of(work), left, gate)
    processes = [_context.Process(target=_optimize, args=arguments) for _ in range(work.slots)]
    for process in processes:
        process.start()
    gate.wait(_START_SECONDS)

    def run() -> None:
        gate.wait()
        gate.wait()

    yield run
    for process in processes:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"a process ended with exit code {process.exitcode}")


def _optimize(work: Work, url: str, objective: Objective, left: Any, gate: Any) -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.load_study(study_name=work.study, storage=url, sampler=sampler(work))

    def take() -> bool:
        with left.get_lock():
            left.value -= 1
            return bool(left.value >= 0)

    def go_on(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        if not take():
            study.stop()

    try:
        gate.wait(_START_SECONDS)  # the study is loaded
        gate.wait()  # and the time begins
        if take():
            study.optimize(objective, callbacks=[go_on])
        gate.wait()
    except BaseException:
        gate.abort()  # or the others would wait for this one
        raise


if __name__ == "__main__":
    serve(prepare)
