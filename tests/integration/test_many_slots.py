"""Many task slots on a server that has hardly more connections than there are slots."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from optuna_spark.storage import DRIVER_CONNECTIONS
from tests.environment import plain_environment
from tests.fixtures_spark import eventually
from tests.servers import DatabaseServer, start_mysql

SLOTS = 64
TRIALS = 2 * SLOTS
OBJECTIVE = """
import pathlib
import time

FOLDER = pathlib.Path({folder!r})

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    (FOLDER / "begun" / str(trial.number)).touch()
    while not (FOLDER / "go").exists():
        time.sleep(0.2)
    return x
"""


@pytest.fixture(scope="module")
def small_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseServer]:
    """A MySQL server that takes 80 connections."""
    server = start_mysql(tmp_path_factory.mktemp("small"), options=["--max-connections=80"])
    yield server
    server.stop()


def counter(server: DatabaseServer, name: str) -> int:
    [(_, value)] = server.admin_sql(f"SHOW GLOBAL STATUS LIKE '{name}'")
    return int(value)


def test_a_connection_for_each_slot_and_few_more(
    small_server: DatabaseServer, tmp_path: Path
) -> None:
    (tmp_path / "begun").mkdir()
    (tmp_path / "tune.py").write_text(OBJECTIVE.format(folder=str(tmp_path)))
    words = ["optimize", "tune.py:objective", "--study-name", "s", "--direction", "minimize"]
    limits = ["--n-trials", str(TRIALS), "--n-jobs", str(SLOTS), "--sampler", "RandomSampler"]
    with (tmp_path / "output").open("wb") as file:
        driver = subprocess.Popen(
            [sys.executable, "-m", "optuna_spark", *words, *limits, "--no-show-progress-bar"],
            cwd=tmp_path,
            env={
                **plain_environment(),
                "HOME": str(tmp_path),
                "OPTUNA_STORAGE": small_server.create_database(),
                "PYSPARK_SUBMIT_ARGS": "--conf spark.ui.enabled=false pyspark-shell",
                "SPARK_LOCAL_IP": "127.0.0.1",
                "SPARK_MASTER": f"local[{SLOTS}]",
            },
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
        )

    def all_begun() -> bool:
        assert driver.poll() is None, (tmp_path / "output").read_text()
        return len(list((tmp_path / "begun").iterdir())) >= SLOTS

    try:
        eventually(all_begun, 300)
        assert counter(small_server, "Threads_connected") >= SLOTS
        (tmp_path / "go").touch()
        assert driver.wait(300) == 0
    finally:
        driver.kill()
        driver.wait()
    output = (tmp_path / "output").read_text()
    assert f"holds {TRIALS} trials ({TRIALS} complete)" in output
    assert "too few" not in output
    assert counter(small_server, "Connection_errors_max_connections") == 0
    assert counter(small_server, "Max_used_connections") <= SLOTS + DRIVER_CONNECTIONS
