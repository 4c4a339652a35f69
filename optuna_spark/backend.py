"""joblib's Spark backend as we use it: one job per call, described, tagged and cancellable.

joblibspark 0.6 and joblib 1.4+ disagree, and this module is where that is mended: an exception of
a task reaches the caller as itself, results
may be retrieved by callback, and jobs can be told apart in Spark's UI and cancelled alone.
"""

from __future__ import annotations

import functools
import logging
import os
import pickle
import resource
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from joblib import parallel_config, register_parallel_backend
from joblibspark.backend import SparkDistributedBackend
from pyspark.sql import SparkSession

from optuna_spark.objectives import pickle_error
from optuna_spark.spark_errors import JobCancelled, explain
from optuna_spark.trial_process import ProcessError

_logger = logging.getLogger(__name__)

_OTHER_FILES = 256  # that the driver may have open besides
_CONNECTING = 32  # threads that connect to the JVM at the same time
_MAX_THREADS = 4096  # jobs in flight; a thread is started only when there is a job for it


class ExecutorTraceback(Exception):
    """Shows, as the cause of an exception, where on the executor it was raised."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f"\n\n{self.text}"


class SparkBackend(SparkDistributedBackend):  # type: ignore[misc]
    """Runs each call in a Spark job of one stage and one task.

    Args:
        session: A classic Spark session.
        tag: Marks the jobs of this backend, so that they can be cancelled alone.

    Example:
        >>> backend = SparkBackend(session, "study-wine")  # doctest: +SKIP
        >>> backend.retrieve_result_callback(backend.submit(os.getpid))  # doctest: +SKIP
        4711
    """

    supports_retrieve_callback = True

    def __init__(self, session: SparkSession, tag: str, **options: Any) -> None:
        with warnings.catch_warnings():
            # joblibspark warns of stage-level scheduling on every master, asked for or not.
            warnings.simplefilter("ignore", UserWarning)
            super().__init__(**options)
        self._spark = session
        self._context = session.sparkContext
        self._tag = self._job_group = tag
        self._cancelled = False
        self._connecting = threading.Semaphore(_CONNECTING)
        self._threads = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="optuna-spark")
        # Any RDD of one element will do; making it costs as much as running it.
        self._single = self._context.parallelize([0], 1)

    def slots(self) -> int:
        """Tasks that the executors known by now run at once."""
        # In a thread: a Ctrl-C in the middle of an answer of the JVM would leave it unread there.
        return self._threads.submit(self._count_slots).result()

    def submit(
        self,
        func: Callable[[], Any],
        callback: Callable[[Any], Any] | None = None,
        *,
        description: str = "joblib",
    ) -> Future[Any]:
        """Run a function of no arguments in a Spark job of its own."""
        future = self._threads.submit(self._run_job, func, description)
        if callback is not None:
            future.add_done_callback(callback)
        return future

    def retrieve_result_callback(self, out: Future[Any]) -> Any:
        """Return what the function returned, or raise what it raised.

        Raises:
            TaskLost: the task ended without a result.
            JobCancelled: the job was cancelled.
            ExecutorEnvironmentError: the executor cannot run the driver's code.
        """
        succeeded, result = out.result()
        if succeeded:
            return result
        raise unpickle_error(*result)

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Cancel the jobs of this backend, and only those."""
        self.cancel()
        self._cancelled = not ensure_ready

    def cancel(self) -> None:
        """Cancel the jobs of this backend, and let no further one start."""
        self._cancelled = True
        self._context.cancelJobsWithTag(self._tag)

    def wait_until_idle(self, seconds: float) -> bool:
        """Wait until no task of this backend's jobs runs on an executor.

        A cancelled job has ended for the driver while its task may live on for seconds.
        """
        deadline = time.monotonic() + seconds
        while self._running_tasks():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def terminate(self) -> None:
        """Cancel what runs and end the threads."""
        self.cancel()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _count_slots(self) -> int:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return int(self.effective_n_jobs(-1))

    def _running_tasks(self) -> int:
        tracker = self._context.statusTracker()
        # Spark's public status has no tasks; its web UI reads them here.
        store = self._context._jsc.sc().statusStore()
        running = 0
        for job_id in tracker.getJobIdsForGroup(self._tag):
            job = tracker.getJobInfo(job_id)
            for stage_id in job.stageIds if job else ():
                stage = tracker.getStageInfo(stage_id)
                if stage is None:
                    continue
                tasks = store.taskList(stage_id, stage.currentAttemptId, 100)
                statuses = [tasks.apply(i).status() for i in range(tasks.length())]
                running += statuses.count("RUNNING")
        return running

    def _describe_job(self, description: str) -> None:
        """Say what this thread runs next; its first call connects it to the JVM."""
        # Only 50 may wait there: of thousands at once some would be reset a minute later.
        with self._connecting:
            self._context.setJobGroup(self._tag, description, interruptOnCancel=True)
            self._context.addJobTag(self._tag)

    def _run_job(self, func: Callable[[], Any], description: str) -> tuple[bool, Any]:
        self._describe_job(description)
        rdd = self._single
        if self._resource_profile is not None:
            rdd = rdd.withResources(self._resource_profile)
        if self._cancelled:
            raise JobCancelled(description)
        try:
            result: tuple[bool, Any] = rdd.map(functools.partial(_call, func)).collect()[0]
        except Exception as error:
            raise explain(str(error), cancelled=self._cancelled) from error
        return result


def room_for(jobs: int) -> int:
    """How many of these jobs may be in flight: each has a socket to the JVM.

    Raises this process's soft limit of open files if they need that.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = min(jobs, _MAX_THREADS) + _OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= need:
        return jobs
    allowed = need if hard == resource.RLIM_INFINITY else min(need, hard)
    if allowed > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed == need:
        return jobs
    _warn_of_few_files(hard, jobs)
    return max(1, allowed - _OTHER_FILES)


@functools.cache
def _warn_of_few_files(limit: int, jobs: int) -> None:
    _logger.warning(
        "This process may open %d files, too few for %d jobs at once, so that fewer run: raise "
        "the hard limit (`ulimit -Hn`) on the driver's host.",
        limit,
        jobs,
    )


def unpickle_error(data: bytes, text: str) -> BaseException:
    """Rebuild an executor's exception, with its traceback there as the cause."""
    error: BaseException = pickle.loads(data)
    error.__cause__ = ExecutorTraceback(text)
    return error


def register() -> None:
    """Make the backend known to joblib as `optuna-spark`."""
    register_parallel_backend("optuna-spark", SparkBackend)


def _call(func: Callable[[], Any], _: int) -> tuple[bool, Any]:
    try:
        return True, func()
    except ProcessError as error:  # it carries what was raised one process further
        return False, error.args
    except Exception as error:
        text = "".join(traceback.format_exception(error))
        return False, (pickle_error(error), f"(process {os.getpid()})\n{text}")


__all__ = [
    "ExecutorTraceback",
    "SparkBackend",
    "parallel_config",
    "register",
    "room_for",
    "unpickle_error",
]
