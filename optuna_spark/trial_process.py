"""The Python worker's side of a trial: a process that runs it, watched from outside.

Trials run in a child of Spark's Python worker, so that a crash, an `os._exit` or native code that
hangs costs that process and one attempt of one trial; the worker stays, and says what happened.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import importlib
import multiprocessing
import os
import signal
import socket
import stat
import sys
import time
import traceback
import warnings
import zipimport
from multiprocessing.connection import Connection, wait
from typing import Any

from pyspark import TaskContext

from optuna_spark.objectives import pickle_error
from optuna_spark.storage import configure_models
from optuna_spark.trial_task import (
    BEGUN,
    DONE,
    WAITED,
    Grant,
    TrialOutcome,
    close_run,
    run_trials,
)

# What Optuna and SQLAlchemy import only when a study is opened and a parameter suggested.
_IMPORTED_LATE = ("alembic.migration", "numpy.random", "MySQLdb", "pymysql")

IDLE_SECONDS = 10.0  # without a grant, after which a trial process and its connection go

_PR_SET_PDEATHSIG = 1
_RESULT, _IDLE = "result", "idle"  # beside what is told of a trial


class TaskLost(Exception):
    """A task ended without a result.

    Args:
        reason: What ended: a trial process, a Python worker, an executor; how, and where.
        timed_out: It was stopped, because a trial took longer than `trial_timeout`.
    """

    def __init__(self, reason: str, timed_out: bool = False) -> None:
        super().__init__(reason, timed_out)
        self.reason, self.timed_out = reason, timed_out

    def __str__(self) -> str:
        return self.reason


class _Idle(Exception):
    """The trial process had ended, for want of work, before the grant reached it."""


class _TrialProcess:
    """A child of this Python worker that runs the trials of one run."""

    def __init__(self, run_id: str, payload: Any) -> None:
        self.run_id = run_id
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        import_late()
        _spare_the_collector()
        arguments = (theirs, os.getpid(), payload)
        self._process = context.Process(target=_serve, args=arguments, daemon=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which stay behind
            self._process.start()
        theirs.close()
        self._death = _watch(self._process)

    def run(self, grant: Grant) -> list[TrialOutcome]:
        """Have a grant run, and wait for it.

        Raises:
            TaskLost: the process ended, or took longer than `trial_timeout` for a trial.
        """
        try:
            self._pipe.send((_task_facts(), grant))
        except OSError:
            raise _Idle from None
        clock = _Clock(grant.trial_timeout)
        while True:
            ready = wait([self._pipe, self._death], clock.left())
            if not ready:
                self.kill()
                raise TaskLost(
                    f"trial_timeout: it ran longer than {grant.trial_timeout:g} s on "
                    f"{socket.gethostname()}, and its process was killed",
                    timed_out=True,
                )
            try:
                if self._pipe not in ready:  # it is held open by what the objective started
                    raise EOFError
                what, value = self._pipe.recv()
            except (EOFError, OSError):
                self._process.join()
                reason = _how_it_ended(self._process.exitcode)
                self.kill()
                raise TaskLost(reason) from None
            if what == _RESULT:
                return self._result(*value)
            if what == _IDLE:
                raise _Idle
            clock.hear(what, value)

    def kill(self) -> None:
        """End the process, and what it has started."""
        pid = self._process.pid
        assert pid is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        self._process.join()
        if self._death != self._process.sentinel:
            os.close(self._death)
        self._process.close()
        self._pipe.close()

    @staticmethod
    def _result(succeeded: bool, value: Any) -> list[TrialOutcome]:
        if succeeded:
            outcomes: list[TrialOutcome] = value
            return outcomes
        raise ProcessError(*value)


class ProcessError(Exception):
    """A trial process could not do its work: its exception, pickled, and its traceback there."""


class _Clock:
    """The time that a trial has left; what it waits for the database does not count."""

    def __init__(self, limit: float | None) -> None:
        self._limit = limit
        self._end: float | None = None
        self._waited = 0.0

    def hear(self, what: str, value: float) -> None:
        """Follow a trial from what its process tells."""
        if self._limit is None:
            return
        if what == BEGUN:
            self._end, self._waited = time.monotonic() + self._limit, 0.0
        elif what == DONE:
            self._end = None
        elif what == WAITED and self._end is not None:
            # Seconds of one wait so far: a smaller number begins another.
            self._end += value - self._waited if value > self._waited else value
            self._waited = value

    def left(self) -> float | None:
        """Seconds, None for no limit."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())


_current: _TrialProcess | None = None  # of this Python worker


def run_grant(run_id: str, payload: Any, grant: Grant) -> list[TrialOutcome]:
    """Run the trials of a grant in the trial process of this Python worker.

    Args:
        run_id: The run's name: each run has processes of its own.
        payload: Spark broadcast of a `Run`.
        grant: The trials.

    Returns:
        One outcome for each trial of the grant, in order.

    Raises:
        TaskLost: the trial process ended, or was ended for a trial that took too long.
        ProcessError: it could not begin.
    """
    global _current
    if _current is not None and _current.run_id != run_id:
        _current.kill()
        _current = None
    while True:
        if _current is None:
            _current = _TrialProcess(run_id, payload)
        forget_archives()
        try:
            return _current.run(grant)
        except _Idle:
            _current.kill()
            _current = None
        except TaskLost:
            _current = None
            raise


def import_late() -> None:
    """Import what every trial process would import for itself: a tenth of a second, and 20 MB."""
    for name in _IMPORTED_LATE:
        with contextlib.suppress(ImportError):  # of the two clients of the database one is enough
            importlib.import_module(name)
    configure_models()


def forget_archives() -> None:
    """Keep pyspark from reading the directories of its own archives for each task.

    For each task it has all importers look anew at what they import from. Up to Python 3.12, one
    of a zip file then reads the file's directory: 110 ms of a core and 15 MB, with `pyspark.zip`
    and a JAR of Spark. These files never change, and an importer that is missed is made anew from
    what Python has kept of the directory.
    """
    archives = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    for path, importer in list(sys.path_importer_cache.items()):
        if isinstance(importer, zipimport.zipimporter) and importer.archive in archives:
            del sys.path_importer_cache[path]


def _spare_the_collector() -> None:
    """Let the garbage collector look no more at what is imported by now."""
    # pyspark's daemon collects after each task, which took 40 ms a task with Optuna, SQLAlchemy
    # and pandas imported; and pages that it does not touch stay shared with the trial process.
    gc.collect()
    gc.freeze()


def _watch(process: Any) -> int:
    """A file descriptor that becomes readable when a process ends."""
    # multiprocessing's own does so only when all that the process has forked has ended too.
    with contextlib.suppress(AttributeError, OSError):  # Linux alone has it
        return os.pidfd_open(process.pid)
    sentinel: int = process.sentinel
    return sentinel


def _task_facts() -> dict[str, Any]:
    task = TaskContext.get()
    return dict(vars(task)) if task is not None else {}


def _how_it_ended(exit_code: int | None) -> str:
    where = f"on {socket.gethostname()}"
    if exit_code is not None and exit_code < 0:
        return f"its process was killed by {signal.Signals(-exit_code).name} {where}"
    return f"its process ended with exit code {exit_code} {where}"


def _serve(pipe: Connection, parent: int, payload: Any) -> None:
    """Run grants until none comes any more."""
    _die_with(parent)
    _close_sockets(pipe.fileno())
    faulthandler.enable()

    def tell(what: str, value: float) -> None:
        pipe.send((what, value))

    while pipe.poll(IDLE_SECONDS):
        try:
            facts, grant = pipe.recv()
        except EOFError:
            return
        vars(TaskContext._getOrCreate()).update(facts)
        result: tuple[bool, Any]
        try:
            result = True, run_trials(payload, grant, tell)
        except BaseException as error:  # a module may call sys.exit as it is imported
            text = "".join(traceback.format_exception(error))
            result = False, (pickle_error(error), f"(process {os.getpid()})\n{text}")
        pipe.send((_RESULT, result))
    pipe.send((_IDLE, None))
    close_run()


def _die_with(parent: int) -> None:
    """End with the Python worker, however that ends."""
    os.setpgid(0, 0)  # what the objective starts is killed with it
    prctl = getattr(ctypes.CDLL(None), "prctl", None)  # Linux alone has it
    if prctl is not None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _close_sockets(kept: int) -> None:
    # Spark sees by its socket that a Python worker has ended: no copy of it may live on.
    for name in os.listdir("/dev/fd"):
        with contextlib.suppress(OSError):  # the folder itself was open among them
            if int(name) != kept and stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                os.close(int(name))
