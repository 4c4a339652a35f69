"""What is made of Spark's errors; the texts are Spark's own, shortened."""

from __future__ import annotations

import platform

import pytest

from optuna_spark.exceptions import SHIP, ExecutorEnvironmentError
from optuna_spark.spark_errors import JobCancelled, explain
from optuna_spark.trial_process import TaskLost

ABORTED = (
    "An error occurred while calling z:org.apache.spark.api.python.PythonRDD.collectAndServe.\n"
    ": org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 3.0 "
    "failed 4 times, most recent failure: Lost task 0.3 in stage 3.0 (TID 9) (node-1 executor 2): "
)
BEGAN = ABORTED + "org.apache.spark.SparkException: \nError from python worker:\n"
PATH = (
    "\nPYTHONPATH was:\n  /opt/spark/python/lib/pyspark.zip\norg.apache.spark.SparkException: EOF"
)


@pytest.mark.parametrize(
    ("text", "kind", "expected"),
    [
        (
            ABORTED + "java.io.IOException: No space left on device\n\tat java.base/java.io.Write",
            TaskLost,
            "No space left on device, on node-1, executor 2",
        ),
        (
            ABORTED + "ExecutorLostFailure (executor 2 exited caused by one of the running tasks) "
            "Reason: Remote RPC client disassociated. Likely due to containers exceeding",
            TaskLost,
            "ExecutorLostFailure (executor 2 exited caused by one of the running tasks) Reason: "
            "Remote RPC client disassociated, on node-1, executor 2",
        ),
        ("Connection reset\n", TaskLost, "Connection reset"),
        ("", TaskLost, "unknown"),
        ("Job 7 cancelled part of cancelled job tags a\n\tat", JobCancelled, "Job 7 cancelled"),
        (
            ABORTED + "[PYTHON_VERSION_MISMATCH] Python in worker has different version: 3.9 than",
            ExecutorEnvironmentError,
            f"Executors run Python 3.9, and the driver {platform.python_version()}: {SHIP}, or",
        ),
        (
            ABORTED + 'java.io.IOException: Cannot run program "/opt/py": error=2, No such file',
            ExecutorEnvironmentError,
            "Executors have no Python at /opt/py, which PYSPARK_PYTHON names",
        ),
        (
            BEGAN + "  /usr/bin/python3: Error while finding module specification for "
            "'optuna_spark.daemon' (ModuleNotFoundError: No module named 'optuna_spark')" + PATH,
            ExecutorEnvironmentError,
            f"Executors run /usr/bin/python3, which lacks optuna-spark: {SHIP}, or set",
        ),
        (
            ABORTED + "Traceback (most recent call last):\n"
            "ModuleNotFoundError: No module named 'optuna'\n",
            ExecutorEnvironmentError,
            f"Executors lack a package that the driver has (No module named 'optuna'): {SHIP}.",
        ),
        (
            BEGAN + "  Traceback (most recent call last):\n"
            "  ImportError: libstdc++.so.6: cannot open shared object file" + PATH,
            ExecutorEnvironmentError,
            "The executors' Python cannot begin (ImportError: libstdc++.so.6: cannot open shared "
            f"object file): {SHIP}.",
        ),
    ],
)
def test_what_spark_says(text: str, kind: type[Exception], expected: str) -> None:
    error = explain(text)
    assert type(error) is kind
    assert str(error).startswith(expected)
    assert "\n" not in str(error)


def test_nothing_else_counts_once_the_run_is_cancelled() -> None:
    assert isinstance(
        explain(ABORTED + "TaskKilled (Stage cancelled)", cancelled=True), JobCancelled
    )
