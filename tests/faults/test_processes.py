"""Faults of the processes that run trials: killed, stopped, run twice, out of disk, stuck."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
from collections.abc import Callable
from datetime import timedelta

import pytest

from optuna_spark.trial_task import FAILURE
from tests.cluster import parent_of
from tests.faults.harness import LONG, PATIENCE, TRIALS, Mark, Row, after, is_gone, kill
from tests.fixtures_spark import eventually

AGAIN = (5, 15, 25)  # numbers of trials at which a fault strikes, and strikes again
LATE = """
import os, time

here = os.path.dirname(__file__)
while os.environ["FULL_DISK"] not in os.environ["SPARK_LOCAL_DIRS"]:
    if os.path.exists(os.path.join(here, "ready")):
        break
    time.sleep(0.05)
"""  # what Python runs first on an executor


def kill_a_python_worker(row: Row, mark: Mark) -> None:
    kill(mark.python_worker)


def kill_a_trial_process(row: Row, mark: Mark) -> None:
    kill(mark.trial_process)


def kill_an_executor(row: Row, mark: Mark) -> None:
    kill(mark.executor)


def kill_a_worker(row: Row, mark: Mark) -> None:
    row.cluster.kill_worker(parent_of(mark.executor))


@pytest.mark.parametrize(
    "strike", [kill_a_python_worker, kill_a_trial_process, kill_an_executor, kill_a_worker]
)
def test_what_runs_a_trial_is_killed(row: Row, strike: Callable[[Row, Mark], None]) -> None:
    held = row.holding(*AGAIN)
    row.optimize()
    for mark in held:
        strike(row, mark)
        eventually(functools.partial(is_gone, mark.trial_process))
        row.cluster.restore()
    row.judge()
    assert sum(row.attempts().values()) > TRIALS, "no trial ran when the fault struck"


def test_an_executor_is_stopped_for_a_while(row: Row) -> None:
    row.settle(seconds=1)
    row.optimize(n_jobs=8)
    row.when_complete(5)
    executor = row.a_running().executor
    os.kill(executor, signal.SIGSTOP)
    # The others go on meanwhile.
    row.when_complete(15)
    after(60 if LONG else 8)
    os.kill(executor, signal.SIGCONT)
    row.judge()


def test_spark_runs_tasks_again(row: Row) -> None:
    lost = [3, 4, 17, 30]
    row.settle(loses_worker=lost)
    row.optimize()
    row.judge()
    assert {trial: n for trial, n in row.attempts().items() if n != 1} == dict.fromkeys(lost, 2)


def test_speculation(row: Row) -> None:
    slow = [6, 7, 20]
    row.settle(slow=dict.fromkeys(map(str, slow), 8.0))
    conf = {
        "spark.speculation": "true",
        "spark.speculation.multiplier": "1.1",
        "spark.speculation.quantile": "0.1",
        "spark.speculation.interval": "100ms",
        # A stage of one task has no median to be slower than.
        "spark.speculation.task.duration.threshold": "1s",
    }
    row.start(slots=4, n_jobs=2, conf=conf)
    row.judge()
    assert any(row.attempts()[trial] > 1 for trial in slow), "no speculative task started"


def test_a_disk_is_full(row: Row) -> None:
    disk = row.folder / "disk"
    disk.mkdir()
    own_mounts = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    mount = 'mount -t tmpfs -o size=64k tmpfs "$0"'
    if subprocess.run([*own_mounts, "sh", "-c", mount, disk], check=False).returncode:
        pytest.skip("a disk of 64 KB needs a mount, which this machine does not let us make")
    fill = 'dd if=/dev/zero of="$0/full" bs=1k 2>/dev/null'
    worker = row.cluster.add_worker(
        env={"SPARK_LOCAL_DIRS": str(disk)},
        cores=1,
        wrapper=[*own_mounts, "sh", "-c", f'{mount}; {fill}; exec "$@"', str(disk)],
    )
    # The other executors are the last to be ready, so that this one is offered all jobs.
    late = row.folder / "late"
    late.mkdir()
    (late / "sitecustomize.py").write_text(LATE)
    conf = {"spark.executorEnv.PYTHONPATH": str(late), "spark.executorEnv.FULL_DISK": str(disk)}
    driver = row.start(slots=3, conf=conf)  # one on each Worker
    eventually(lambda: worker in map(parent_of, row.cluster.executor_pids()), PATIENCE)
    eventually(lambda: driver.output.count("A job was lost") > 3 or driver.has_ended(), PATIENCE)
    (late / "ready").touch()
    row.judge()


def test_trials_are_stuck(row: Row) -> None:
    stuck = [7, 23]
    row.settle(holds_gil=stuck[:1], masks_signals=stuck[1:])
    row.optimize("--n-trials", str(TRIALS), "--trial-timeout", "5")
    row.judge(failed=stuck)
    trials = row.trials()
    for number in stuck:
        failed = trials[number]
        assert "timeout" in failed.system_attrs[FAILURE]["reason"]
        assert failed.duration is not None
        assert failed.duration < timedelta(seconds=10)
    assert set(row.attempts().values()) == {1}
