"""What the rows of the fault table share: a study, its drivers, its trials' places, a verdict."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pymysql
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

from optuna_spark.trial_task import FAILURE
from tests.cluster import StandaloneCluster
from tests.environment import plain_environment
from tests.faults.warm import WarmDriver, WarmStudy
from tests.fixtures_spark import eventually
from tests.servers import DatabaseServer

TRIALS = 40
LONG = os.environ.get("OPTUNA_SPARK_LONG_FAULTS") == "1"
FOLDER = "OPTUNA_SPARK_FAULT_FOLDER"  # in the environment of every process of a row
ROW = "row"  # a file in that folder, which names the row's own: a warm driver has several
OBJECTIVE = Path(__file__).with_name("objective.py")
PATIENCE = 150.0  # seconds; what the package may need after a fault, its grace included

Result = tuple[tuple[float, ...], dict[str, Any]]


@dataclass(frozen=True)
class Mark:
    """Where a trial's objective ran, or runs."""

    trial: int
    pids: tuple[int, ...]
    params: dict[str, float]

    @property
    def trial_process(self) -> int:
        """The process that runs the objective; it may be the Python worker itself."""
        return self.pids[0]

    @property
    def python_worker(self) -> int:
        """The process that Spark's Python daemon forked."""
        return self.pids[-3]

    @property
    def executor(self) -> int:
        """The executor's JVM."""
        return self.pids[-1]


class Driver:
    """A driver as a process: its Spark is its own, and its output goes to a file."""

    def __init__(self, command: list[str], folder: Path, env: Mapping[str, str]) -> None:
        self._log = folder / f"driver-{len(list(folder.glob('driver-*.log')))}.log"
        with self._log.open("wb") as file:
            self._process = subprocess.Popen(
                command, cwd=folder, env=env, stdout=file, stderr=file, stdin=subprocess.DEVNULL
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._log.read_text(errors="replace")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, and not its children."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as the kernel ends who takes too much memory (SIGKILL)."""
        self._process.kill()
        self._process.wait()

    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for its end, and return its exit code."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the driver still runs after {seconds:g} s") from None


class Row:
    """One row of the table: a fresh study on a cluster and a database that rows share.

    Args:
        folder: Takes the marks of trials and the output of drivers.
        cluster: Where the drivers' applications run.
        server: Where the study is.
        url: The study's database there; or the same through something in between.
        warm: Finds a driver that is running already.
    """

    def __init__(
        self,
        folder: Path,
        cluster: StandaloneCluster,
        server: DatabaseServer,
        url: str,
        warm: Callable[[Row], WarmDriver],
    ) -> None:
        self.folder, self.cluster, self.server, self.url = folder.resolve(), cluster, server, url
        self.database = str(make_url(url).database)
        self.drivers: list[Driver | WarmStudy] = []
        self._warm = warm
        self._complete: dict[int, Result] = {}
        for name in ("marks", "held"):
            (self.folder / name).mkdir()
        self._hold(TRIALS)
        self.settle()

    def settle(self, *, seconds: float = 0.25, **faults: Any) -> None:
        """Say how long a trial takes, and what is wrong with which trial.

        Args:
            seconds: The duration of every trial but those in `slow`.
            faults: `slow` (seconds by trial number), and the numbers of those trials that have
                the faults `loses_worker`, `holds_gil` and `masks_signals`.
        """
        none: dict[str, Any] = {"loses_worker": [], "holds_gil": [], "masks_signals": []}
        settings = {"seconds": seconds, "slow": {}, **none, **faults}
        (self.folder / "settings.json").write_text(json.dumps(settings))
        (self.folder / ROW).write_text(str(self.folder))

    def environment(
        self,
        *,
        slots: int = 2,
        conf: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> dict[str, str]:
        """The environment of a driver, with an executor on each Worker for half of the slots."""
        folder = folder or self.folder
        settings = {
            "spark.cores.max": str(slots),
            "spark.executor.cores": str(max(1, slots // 2)),
            "spark.executor.memory": "512m",
            "spark.ui.enabled": "false",
            # So that an executor's processes are known as this row's, whoever their parent is.
            f"spark.executorEnv.{FOLDER}": str(folder),
            **(conf or {}),
        }
        options = [
            word for name, value in settings.items() for word in ("--conf", f"{name}={value}")
        ]
        return {
            **plain_environment(),
            FOLDER: str(folder),
            "SPARK_MASTER": self.cluster.url,
            "SPARK_LOCAL_IP": "127.0.0.1",
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_SUBMIT_ARGS": shlex.join([*options, "pyspark-shell"]),
            "OPTUNA_STORAGE": self.url,
        }

    def optimize(self, *options: str, n_jobs: int = 2) -> WarmStudy:
        """Run the row's study on the warm driver, by default all trials of the table."""
        driver = self._warm(self)
        (driver.folder / ROW).write_text(str(self.folder))
        end = self.folder / f"end-{len(self.drivers)}"
        study = driver.optimize(self._arguments(options, n_jobs), self.url, end)
        self.drivers.append(study)
        return study

    def start(
        self,
        *options: str,
        slots: int = 2,
        n_jobs: int | None = None,
        conf: Mapping[str, str] | None = None,
        grace: float | None = None,
    ) -> Driver:
        """Start a driver of its own, `optuna-spark optimize`, by default for all trials."""
        command = [
            sys.executable,
            "-m",
            "optuna_spark",
            *self._arguments(options, n_jobs or slots),
        ]
        env = self.environment(slots=slots, conf=conf)
        if grace is not None:
            env["OPTUNA_SPARK_STORAGE_GRACE"] = f"{grace:g}"
        return self.start_command(command, env)

    def _arguments(self, options: Sequence[str], n_jobs: int) -> list[str]:
        place = ["optimize", f"{OBJECTIVE}:objective", "--study-name", "s"]
        shape = ["--direction", "minimize", "--n-jobs", str(n_jobs), "--sampler", "RandomSampler"]
        # The verbose output, which is shown when a row fails, has Spark's own words.
        shown = ["--no-show-progress-bar", "--verbose"]
        return [*place, *shape, *shown, *(options or ("--n-trials", str(TRIALS)))]

    def start_command(self, command: list[str], env: Mapping[str, str]) -> Driver:
        """Start any program as this row's driver."""
        driver = Driver(command, self.folder, env)
        self.drivers.append(driver)
        return driver

    def states(self) -> Counter[str]:
        """Trials by state, empty while the database is away."""
        rows = self._rows("SELECT state, COUNT(*) FROM {}.trials GROUP BY state")
        return Counter({str(state): int(count) for state, count in rows})

    def when_complete(self, number: int, seconds: float = PATIENCE) -> None:
        """Wait until so many trials are COMPLETE, and keep what they are for the verdict."""

        def enough() -> bool:
            ended = self.drivers[-1].has_ended()
            if self.states()["COMPLETE"] >= number:
                return True
            assert not ended, "the driver ended before the fault"
            return False

        eventually(enough, seconds)
        self.remember()

    def remember(self) -> None:
        """Keep what is COMPLETE now: nothing of it may be lost or changed."""
        for trial in self.trials():
            if trial.state == TrialState.COMPLETE:
                self._complete[trial.number] = (tuple(trial.values), trial.params)

    def trials(self) -> list[FrozenTrial]:
        """All trials, read by Optuna alone."""
        url = self.server.admin_url(self.database)

        def read() -> tuple[list[FrozenTrial]] | None:
            # There may be no connection left just now.
            with contextlib.suppress(optuna.exceptions.StorageInternalError, OperationalError):
                storage = optuna.storages.RDBStorage(url, engine_kwargs={"poolclass": NullPool})
                return (optuna.load_study(study_name="s", storage=storage).trials,)
            return None

        [trials] = eventually(read) or ([],)
        return trials

    def running(self) -> list[Mark]:
        """Where trials that are RUNNING run, in the order of their begin."""
        rows = self._rows(
            "SELECT number FROM {}.trials WHERE state = 'RUNNING' ORDER BY datetime_start"
        )
        last = [marks[-1] for (number,) in rows if (marks := self.marks(int(number)))]
        return [mark for mark in last if Path(f"/proc/{mark.trial_process}").exists()]

    def a_running(self) -> Mark:
        """Where one of the trials that are RUNNING runs, once there is one."""
        return eventually(self.running)[-1]

    def holding(self, *numbers: int) -> Iterator[Mark]:
        """Hold up trials of these numbers and above, in turn, and say where one of them runs.

        Nothing from the first number on ends before the caller has come to it: say so before the
        trials begin.
        """
        self._hold(numbers[0])
        return self._held_up(numbers)

    def _held_up(self, numbers: Sequence[int]) -> Iterator[Mark]:
        for number, following in zip(numbers, [*numbers[1:], TRIALS], strict=True):
            mark = eventually(functools.partial(self._held, number), PATIENCE)
            self.remember()
            yield mark
            self._hold(following)

    def _hold(self, number: int) -> None:
        draft = self.folder / "hold.draft"
        draft.write_text(str(number))
        draft.rename(self.folder / "hold")

    def _held(self, number: int) -> Mark | None:
        paths = (self.folder / "held").iterdir()
        held = {int(path.name) for path in paths if path.read_text() == str(number)}
        return next((mark for mark in reversed(self.running()) if mark.trial in held), None)

    def marks(self, trial: int) -> list[Mark]:
        """The attempts at a trial, as far as its objective began."""
        try:
            lines = (self.folder / "marks" / str(trial)).read_text().splitlines()
        except FileNotFoundError:
            return []
        notes = [json.loads(line) for line in lines if line.endswith("}")]
        return [Mark(note["trial"], tuple(note["pids"]), note["params"]) for note in notes]

    def attempts(self) -> dict[int, int]:
        """How often the objective of each trial began."""
        return {
            int(path.name): len(self.marks(int(path.name)))
            for path in (self.folder / "marks").iterdir()
        }

    def processes(self) -> list[int]:
        """Ids of the processes that this row's drivers left behind, executors' included."""
        mark = f"{FOLDER}={self.folder}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):  # it has ended meanwhile, or is another user's
                if entry.name.isdigit() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def none_is_left(self, seconds: float = 20.0) -> None:
        """Wait until no process of this row runs."""
        eventually(lambda: not self.processes(), seconds)

    def judge(
        self, driver: Driver | WarmStudy | None = None, *, failed: Iterable[int] | None = ()
    ) -> None:
        """Wait for the end of the last driver, or of the given one, and say what the rows say.

        Args:
            driver: The driver that ends last.
            failed: Numbers of the trials that must have failed; None where any may.
        """
        assert (driver or self.drivers[-1]).wait() == 0
        trials = self.trials()
        self.judge_trials(trials)
        assert [trial.number for trial in trials] == list(range(TRIALS))
        assert all(trial.state.is_finished() for trial in trials), self.states()
        if failed is not None:
            expected = set(failed)
            assert {t.number for t in trials if t.state == TrialState.FAIL} == expected, [
                trial.system_attrs.get(FAILURE)
                for trial in trials
                if trial.state == TrialState.FAIL and trial.number not in expected
            ]
        self.none_is_left()

    def judge_trials(self, trials: list[FrozenTrial]) -> None:
        """Say what holds of any trials after any fault, however the run ended."""
        by_number = {trial.number: trial for trial in trials}
        assert len(by_number) == len(trials), "two trials have one number"
        for number, (values, params) in self._complete.items():
            trial = by_number[number]
            assert trial.state == TrialState.COMPLETE, f"trial {number} was COMPLETE: {trial}"
            assert (tuple(trial.values), trial.params) == (values, params)
        for trial in trials:
            assert trial.state != TrialState.RUNNING, trial
            if trial.state == TrialState.FAIL:
                assert trial.system_attrs.get(FAILURE, {}).get("reason"), trial
            if trial.state == TrialState.COMPLETE:
                assert trial.value == sum(value * value for value in trial.params.values())
                assert len(trial.params) == 2
            attempts = self.marks(trial.number)
            assert all(mark.params == attempts[0].params for mark in attempts), attempts

    def end(self) -> None:
        """Kill what this row started and still runs."""
        for driver in self.drivers:
            driver.kill()
        deadline = time.monotonic() + 20
        while left := self.processes():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            if time.monotonic() > deadline:
                raise RuntimeError(f"processes {left} cannot be killed")
            time.sleep(0.05)

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        # As root over the socket: this needs none of the connections that a fault takes away.
        with contextlib.suppress(OSError, pymysql.Error):
            return self.server.admin_sql(sql.format(self.database))
        return []


def kill(pid: int) -> None:
    """Kill a process that may have ended by itself (SIGKILL)."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def is_gone(pid: int) -> bool:
    """Whether a process has ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def after(seconds: float) -> None:
    """Wait for a time that is itself the fault, as an outage has a length."""
    end = time.monotonic() + seconds
    eventually(lambda: time.monotonic() >= end, seconds + 30)
