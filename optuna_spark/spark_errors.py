"""What Spark's errors mean for a run: what its executors lack, and how a task was lost."""

from __future__ import annotations

import platform
import re

from optuna_spark.exceptions import SHIP, ExecutorEnvironmentError
from optuna_spark.trial_process import TaskLost


class JobCancelled(Exception):
    """The job was cancelled before it had a result."""


def explain(text: str, *, cancelled: bool = False) -> Exception:
    """Find the exception that says what a failed job means.

    Args:
        text: What Spark says of it, Java's stack included.
        cancelled: The job's run was cancelled, whatever Spark says.

    Returns:
        A `JobCancelled`, an `ExecutorEnvironmentError` or a `TaskLost`, to be raised.

    Example:
        >>> explain("Job 7 cancelled part of cancelled job tags optuna-spark-1")
        JobCancelled('Job 7 cancelled part of cancelled job tags optuna-spark-1')
    """
    if cancelled or "cancelled" in text:
        return JobCancelled(text.splitlines()[0])
    if "PYTHON_VERSION_MISMATCH" in text or "different version" in text:
        theirs = re.search(r"different version:? (\d\.\d+)", text)
        which = f"Python {theirs[1]}" if theirs else "another Python version"
        return ExecutorEnvironmentError(
            f"Executors run {which}, and the driver {platform.python_version()}: {SHIP}, or "
            "set PYSPARK_PYTHON to one of the same version."
        )
    program = re.search(r'Cannot run program "([^"]+)"', text)
    if program is not None:
        return ExecutorEnvironmentError(
            f"Executors have no Python at {program[1]}, which PYSPARK_PYTHON names: {SHIP}, "
            "or correct it."
        )
    alone = re.search(r"Error from python worker:\s+(\S+): .*optuna_spark", text)
    if alone is not None:
        return ExecutorEnvironmentError(
            f"Executors run {alone[1]}, which lacks optuna-spark: {SHIP}, or set "
            "PYSPARK_PYTHON to a Python that has it."
        )
    if "ModuleNotFoundError" in text:
        missing = text.rpartition("ModuleNotFoundError: ")[2].splitlines()[0]
        return ExecutorEnvironmentError(
            f"Executors lack a package that the driver has ({missing}): {SHIP}."
        )
    begun = re.search(r"Error from python worker:\n(.+?)\nPYTHONPATH was:", text, re.DOTALL)
    if begun is not None:
        why = begun[1].splitlines()[-1].strip()
        return ExecutorEnvironmentError(f"The executors' Python cannot begin ({why}): {SHIP}.")
    return TaskLost(_reason(text))


def _reason(text: str) -> str:
    """What a Spark error says happened to the task, and where."""
    lost = re.search(
        r"Lost task \S+ in stage \S+ \(TID \d+\) \((.+?) executor (\S+)\): (.+)", text
    )
    if lost is None:
        lines = [line.strip(" :") for line in text.splitlines()]
        return next((line for line in lines if line), "unknown")
    host, executor, what = lost.groups()
    # The class of the exception in front and the advice behind say nothing to a user of trials.
    what = re.sub(r"^[\w.]+(Exception|Error): ", "", what).partition(". ")[0].rstrip(".")
    return f"{what}, on {host}, executor {executor}"
