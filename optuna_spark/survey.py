"""Asks all executors of a session at once, for `optuna-spark check`."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any

from pyspark.sql import SparkSession

from optuna_spark.backend import SparkBackend
from optuna_spark.session import is_local

_POLL_SECONDS = 0.05
_SETTLE_SECONDS = 0.5  # without another executor, after which all are taken to be there


class Survey:
    """Finds the executors and runs a question on each.

    Args:
        session: A classic Spark session, which may have begun just now.

    Example:
        >>> with Survey(session) as survey:  # doctest: +SKIP
        ...     slots = survey.wait_for_slots()
        ...     hosts = [answer() for answer in survey.ask(socket.gethostname, slots)]
    """

    def __init__(self, session: SparkSession) -> None:
        self._local = is_local(session)
        self._backend = SparkBackend(session, "optuna-spark-check")
        self._first: Future[Any] | None = None

    def __enter__(self) -> Survey:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._backend.terminate()

    def wait_for_slots(self) -> int:
        """Wait until executors are there, and count how many tasks they run at once.

        Raises:
            ExecutorEnvironmentError: they cannot run the driver's code.
            TaskLost: they are lost as they begin.
        """
        if self._local:
            return self._backend.slots()
        # Where executors come on demand, a job brings the first. It goes on beside what is asked
        # next: its executor is busy starting Python.
        self._first = self._submit(os.getpid)
        slots, since = 0, time.monotonic()
        while not slots or time.monotonic() < since + _SETTLE_SECONDS:
            if self._first.done():
                self._backend.retrieve_result_callback(self._first)
            count = self._backend.slots()
            if count != slots:  # they register one by one
                slots, since = count, time.monotonic()
            time.sleep(_POLL_SECONDS)
        return slots

    def ask(self, question: Callable[[], Any], slots: int) -> list[Callable[[], Any]]:
        """Run a question in every task slot at once.

        Returns:
            For each slot a function that waits for the answer, and raises what went wrong.
        """
        jobs = [self._submit(question) for _ in range(slots)]
        return [functools.partial(self._backend.retrieve_result_callback, job) for job in jobs]

    def _submit(self, question: Callable[[], Any]) -> Future[Any]:
        return self._backend.submit(question, description="check")
