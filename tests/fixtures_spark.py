"""A Spark session with real Python workers, fresh SQLite files, and how to wait for things."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from pyspark.sql import SparkSession

T = TypeVar("T")

SLOTS = 4


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    """A classic session of four task slots on this host, which all tests of the session share."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    session = (
        SparkSession.builder.master(f"local[{SLOTS}]")
        .appName("optuna-spark-tests")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .config("spark.driver.host", "127.0.0.1")
        .getOrCreate()
    )
    session.sparkContext.setLogLevel("OFF")
    # Python workers for all slots, so that jobs do not happen to have the same one each time.
    session.sparkContext.parallelize(range(SLOTS), SLOTS).foreach(lambda _: time.sleep(1))
    yield session
    session.stop()


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of an SQLite file that does not exist yet."""
    return f"sqlite:///{tmp_path / 'study.db'}"


def eventually(condition: Callable[[], T], seconds: float = 30.0) -> T:
    """Wait until a condition holds, and return what it says then.

    Args:
        condition: Asked again and again; anything true ends the wait.
        seconds: How long it may take.

    Raises:
        AssertionError: it does not hold in time.
    """
    deadline = time.monotonic() + seconds
    while not (answer := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {condition}, at last {answer!r}")
        time.sleep(0.05)
    return answer
