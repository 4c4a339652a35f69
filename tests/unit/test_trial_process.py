"""The Python worker's side of a trial, with real processes and no Spark."""

from __future__ import annotations

import collections
import importlib
import itertools
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pyspark import TaskContext

from optuna_spark import trial_process
from optuna_spark.trial_process import ProcessError, TaskLost, run_grant
from optuna_spark.trial_task import BEGUN, DONE, WAITED, Grant, TrialOutcome
from tests.fixtures_spark import eventually

HERE = socket.gethostname()

Work = Callable[[Grant, Callable[[str, float], None]], Any]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Work], None]]:
    """Says what the trial process does in place of running trials."""

    def use(work: Work) -> None:
        def run_trials(payload: Any, grant: Grant, tell: Any) -> list[TrialOutcome]:
            done = work(grant, tell)
            return [TrialOutcome(each, reason=str(done)) for each in grant.trial_ids]

        monkeypatch.setattr(trial_process, "run_trials", run_trials)

    yield use
    if trial_process._current is not None:
        trial_process._current.kill()
        trial_process._current = None


def answer(grant: Grant, run_id: str = "r") -> str | None:
    [outcome] = run_grant(run_id, None, grant)
    return outcome.reason


def grant(timeout: float | None = None) -> Grant:
    return Grant(0, (7,), trial_timeout=timeout)


def test_archives_of_spark_are_not_read_for_each_task(
    serve: Callable[[Work], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("spark", "added"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            archive.writestr(f"module_in_{name}.py", "")
        monkeypatch.syspath_prepend(tmp_path / f"{name}.zip")
        importlib.import_module(f"module_in_{name}")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}/spark.zip{os.pathsep}elsewhere")
    serve(lambda grant, tell: None)
    answer(grant())
    kept = [path for path in sys.path_importer_cache if path.startswith(str(tmp_path))]
    assert kept == [f"{tmp_path}/added.zip"]


def test_grants_of_a_run_share_a_process(serve: Callable[[Work], None]) -> None:
    serve(lambda grant, tell: os.getpid())
    first = answer(grant())
    assert first == answer(grant())
    assert first != str(os.getpid())


def test_another_run_has_another_process(serve: Callable[[Work], None]) -> None:
    serve(lambda grant, tell: os.getpid())
    first = int(answer(grant()) or 0)
    assert int(answer(grant(), "other") or 0) != first
    assert not Path(f"/proc/{first}").exists()


def die_by(number: int) -> Work:
    return lambda grant, tell: os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("work", "how"),
    [
        (die_by(signal.SIGKILL), "was killed by SIGKILL"),
        (die_by(signal.SIGSEGV), "was killed by SIGSEGV"),
        (die_by(signal.SIGTERM), "was killed by SIGTERM"),
        (lambda grant, tell: os._exit(3), "ended with exit code 3"),
        (lambda grant, tell: os._exit(0), "ended with exit code 0"),
    ],
)
def test_a_process_that_ends_says_how(serve: Callable[[Work], None], work: Work, how: str) -> None:
    serve(work)
    with pytest.raises(TaskLost) as caught:
        run_grant("r", None, grant())
    assert str(caught.value) == f"its process {how} on {HERE}"
    assert not caught.value.timed_out
    serve(lambda grant, tell: "as new")
    assert answer(grant()) == "as new"


def hold_the_lock(grant: Grant, tell: Callable[[str, float], None]) -> None:
    tell(BEGUN, 7)
    collections.deque(itertools.repeat(0, 10**15), maxlen=0)


def mask_all_signals(grant: Grant, tell: Callable[[str, float], None]) -> None:
    tell(BEGUN, 7)
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    time.sleep(600)


@pytest.mark.parametrize("work", [hold_the_lock, mask_all_signals])
def test_a_trial_that_takes_too_long_is_killed(serve: Callable[[Work], None], work: Work) -> None:
    serve(work)
    with pytest.raises(TaskLost, match=r"^trial_timeout: it ran longer than 0.2 s on ") as caught:
        run_grant("r", None, grant(timeout=0.2))
    assert caught.value.timed_out


def test_what_the_objective_started_is_killed_too(
    serve: Callable[[Work], None], tmp_path: Path
) -> None:
    def work(grant: Grant, tell: Callable[[str, float], None]) -> None:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (tmp_path / "pid").write_text(str(child.pid))
        tell(BEGUN, 7)
        time.sleep(600)

    serve(work)
    with pytest.raises(TaskLost):
        run_grant("r", None, grant(timeout=0.2))
    status = Path("/proc", (tmp_path / "pid").read_text(), "stat")
    eventually(lambda: not status.exists() or status.read_text().rpartition(")")[2][1] == "Z")


def test_what_the_objective_forked_does_not_hide_its_end(
    serve: Callable[[Work], None], tmp_path: Path
) -> None:
    def work(grant: Grant, tell: Callable[[str, float], None]) -> None:
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
        (tmp_path / "pid").write_text(str(pid))
        os.kill(os.getpid(), signal.SIGKILL)

    serve(work)
    with pytest.raises(TaskLost, match="was killed by SIGKILL"):
        run_grant("r", None, grant())
    status = Path("/proc", (tmp_path / "pid").read_text(), "stat")
    eventually(lambda: not status.exists() or status.read_text().rpartition(")")[2][1] == "Z")


def test_only_the_objective_is_timed(serve: Callable[[Work], None]) -> None:
    def work(grant: Grant, tell: Callable[[str, float], None]) -> str:
        time.sleep(0.3)  # to claim the trial
        tell(BEGUN, 7)
        tell(DONE, 7)
        time.sleep(0.3)  # to report it
        return "done"

    serve(work)
    assert answer(grant(timeout=0.2)) == "done"


def test_what_a_trial_waits_for_the_database_does_not_count(serve: Callable[[Work], None]) -> None:
    def work(grant: Grant, tell: Callable[[str, float], None]) -> str:
        tell(BEGUN, 7)
        for seconds in (0.2, 0.4, 0.3):  # the last one is another wait
            tell(WAITED, seconds)
        time.sleep(0.6)
        return "done"

    serve(work)
    assert answer(grant(timeout=0.2)) == "done"


def test_what_a_process_raises_travels(serve: Callable[[Work], None]) -> None:
    def work(grant: Grant, tell: Callable[[str, float], None]) -> None:
        raise ValueError("no storage")

    serve(work)
    with pytest.raises(ProcessError) as caught:
        run_grant("r", None, grant())
    data, text = caught.value.args
    assert b"no storage" in data
    assert text.endswith("ValueError: no storage\n")


def test_a_module_that_exits_as_it_is_imported_is_an_error(serve: Callable[[Work], None]) -> None:
    serve(lambda grant, tell: sys.exit(0))
    with pytest.raises(ProcessError, match="SystemExit"):
        run_grant("r", None, grant())


def test_an_idle_process_goes_and_the_next_grant_has_another(
    serve: Callable[[Work], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial_process, "IDLE_SECONDS", 0.1)
    serve(lambda grant, tell: os.getpid())
    first = int(answer(grant()) or 0)
    held = trial_process._current
    assert held is not None
    held._process.join(30)
    assert held._process.exitcode == 0
    assert int(answer(grant()) or 0) != first


def test_a_process_ends_with_its_python_worker(tmp_path: Path) -> None:
    program = f"""
import os, time
from pathlib import Path
from optuna_spark import trial_process
from optuna_spark.trial_task import Grant

def run_trials(payload, grant, tell):
    Path({str(tmp_path / "pid")!r}).write_text(str(os.getpid()))
    time.sleep(600)

trial_process.run_trials = run_trials
trial_process.run_grant("r", None, Grant(0, (7,)))
"""
    with subprocess.Popen([sys.executable, "-c", program]) as worker:
        pid = eventually(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        worker.kill()
        status = Path("/proc", str(pid), "stat")
        eventually(lambda: not status.exists() or status.read_text().rpartition(")")[2][1] == "Z")


def test_a_process_knows_its_task(
    serve: Callable[[Work], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(lambda grant, tell: TaskContext._getOrCreate().attemptNumber())
    for number in (2, 5):
        task = TaskContext.__new__(TaskContext)
        task._attemptNumber = number
        monkeypatch.setattr(TaskContext, "_taskContext", task)
        assert answer(grant()) == str(number)


def test_a_process_holds_no_socket_of_its_python_worker(serve: Callable[[Work], None]) -> None:
    def work(grant: Grant, tell: Callable[[str, float], None]) -> int:
        return sum(path.is_socket() for path in Path("/proc/self/fd").iterdir())

    ours, theirs = socket.socketpair()
    with ours, theirs:
        serve(work)
        assert answer(grant()) == "1", "the pipe alone"
