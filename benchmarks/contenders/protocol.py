"""A contender's side of the talk: a line of JSON for each piece of work, a line for its result."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from importlib import metadata
from typing import Any

from benchmarks.work import Work

# Makes ready for the work, outside the time that counts, and gives what does it.
Prepare = Callable[[Work, str], contextlib.AbstractContextManager[Callable[[], object]]]

_SHOWN = ("optuna-spark", "optuna", "pyspark", "joblibspark", "mlflow", "hyperopt", "ray")


def serve(prepare: Prepare) -> None:
    """Do what comes on stdin until that is closed; all else that is printed goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        print(json.dumps(message), file=answers, flush=True)

    answer({"versions": _versions()})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer(_do(prepare, Work(**request["work"]), request["url"]))
        except Exception as error:
            traceback.print_exc()
            answer({"error": _one_line(error)})


def slots() -> int:
    """How many trials shall run at once: the command's argument."""
    return int(sys.argv[1])


def spark_session(**further: str) -> Any:
    """A Spark session on this machine, with as many task slots.

    Args:
        further: Settings of Spark, with `_` for dots.
    """
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    settings = {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        **{name.replace("_", "."): value for name, value in further.items()},
    }
    builder = SparkSession.builder.master(f"local[{slots()}]").appName("benchmarks")
    session = builder.config(map=settings).getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def _do(prepare: Prepare, work: Work, url: str) -> dict[str, Any]:
    with prepare(work, url) as run:
        began = time.time()
        run()
        ended = time.time()
    return {"began": began, "ended": ended}


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    imported = {name.replace("_", "-") for name in sys.modules}
    for name in imported.intersection(_SHOWN):  # the project is on the path of all
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def _one_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no message'}"
