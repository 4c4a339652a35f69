"""How trials are handed to Spark: how many at once, how often, in which process, and for how long.

What happened is read from the trials' rows in the database wherever they hold it.
"""

from __future__ import annotations

import ctypes
import functools
import json
import logging
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import optuna
import pytest
from optuna.trial import FrozenTrial, Trial, TrialState
from pyspark import SparkContext
from pyspark.sql import SparkSession

import optuna_spark
from optuna_spark.backend import SparkBackend
from optuna_spark.trial_process import import_late
from optuna_spark.trial_task import ATTEMPT, FAILURE
from tests.fixtures_spark import SLOTS, eventually

pytestmark = pytest.mark.filterwarnings("error")

Study = optuna.Study
LONG = 60.0  # seconds for which a trial waits for what must happen meanwhile


@pytest.fixture
def study(
    spark: SparkSession, sqlite_url: str, request: pytest.FixtureRequest
) -> optuna_spark.SparkStudy:
    return new_study(spark, sqlite_url, request.node.name)


def new_study(
    spark: SparkSession, url: str, name: str = "study", **arguments: Any
) -> optuna_spark.SparkStudy:
    sampler = arguments.pop("sampler", None) or optuna.samplers.RandomSampler()
    return optuna_spark.create_study(
        storage=url, study_name=name, spark=spark, sampler=sampler, **arguments
    )


def states(study: Study) -> Counter[str]:
    return Counter(trial.state.name for trial in study.get_trials(deepcopy=False))


def reason(trial: FrozenTrial) -> str:
    return str(trial.system_attrs[FAILURE]["reason"])


def most_at_once(trials: Iterable[FrozenTrial]) -> int:
    """How many trials ran at once at most, by their own start and end."""
    changes = []
    for trial in trials:
        changes += [(trial.datetime_start, 1), (trial.datetime_complete, -1)]
    running = most = 0
    for _, change in sorted(changes):  # of two at one moment, the end comes first
        running += change
        most = max(most, running)
    return most


def descriptions(spark: SparkSession, study: Study) -> list[str]:
    """What Spark's UI shows for each job of a study."""
    jobs = spark.sparkContext._jsc.sc().statusStore().jobsList(None)
    shown = [jobs.apply(number).description() for number in range(jobs.size())]
    texts = [text.get() for text in shown if text.isDefined()]
    return [text for text in texts if text.startswith(f"study {study.study_name}: ")]


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state != "Z"  # dead, and whoever has it by now does not care


def note(folder: Path, name: Any, text: Any = "") -> None:
    """Leave a file that others see whole or not at all."""
    draft = folder / f".{name}-{os.getpid()}"
    draft.write_text(str(text))
    draft.rename(folder / str(name))


def wait_until(condition: Callable[[], bool]) -> bool:
    """Inside an objective: whether the condition comes true before it is too late."""
    deadline = time.monotonic() + LONG
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def do_nothing(trial: Trial) -> float:
    return trial.suggest_float("x", 0, 1)


def sleep(trial: Trial, *, seconds: float) -> float:
    time.sleep(seconds)
    return 0.0


def others_finished(trial: Trial, count: int) -> bool:
    return (
        sum(each.state.is_finished() for each in trial.study.get_trials(deepcopy=False)) == count
    )


# Parallel


@pytest.mark.parametrize(("n_jobs", "at_once"), [(4, 4), (-1, SLOTS), (2, 2), (2 * SLOTS, SLOTS)])
def test_slots_are_used_and_no_more(
    n_jobs: int, at_once: int, study: optuna_spark.SparkStudy
) -> None:
    study.optimize(functools.partial(sleep, seconds=1.5), n_trials=2 * at_once, n_jobs=n_jobs)
    assert states(study) == {"COMPLETE": 2 * at_once}
    assert most_at_once(study.trials) == at_once


def test_a_slow_trial_does_not_hold_up_the_others(study: optuna_spark.SparkStudy) -> None:
    def objective(trial: Trial) -> bool:
        if trial.number == 0:
            return wait_until(lambda: others_finished(trial, 10))
        time.sleep(0.5)
        return True

    study.optimize(objective, n_trials=11, n_jobs=2)
    assert [trial.value for trial in study.trials] == [True] * 11


def test_a_slow_trial_does_not_hold_up_those_of_its_job(
    study: optuna_spark.SparkStudy, spark: SparkSession
) -> None:
    slow = 20  # by then it is known how short trials are, and several share a job

    def objective(trial: Trial) -> bool:
        return trial.number != slow or wait_until(lambda: others_finished(trial, 59))

    study.optimize(objective, n_trials=60, n_jobs=2)
    assert [trial.value for trial in study.trials] == [True] * 60
    grant = study.trials[slow].system_attrs[ATTEMPT]["grant"]
    [job] = [text for text in descriptions(spark, study) if text.endswith(f"grant {grant}")]
    assert " trials, " in job, "the slow trial had a job of its own: nothing was tested"


def test_trials_of_a_job_are_settled_as_they_end(
    study: optuna_spark.SparkStudy,
    spark: SparkSession,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Seen(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.msg.startswith("Trial %d is"):
                note(tmp_path, record.args[0])  # type: ignore[index]

    def objective(trial: Trial) -> bool:
        # From here on each waits until the driver knows of the one before.
        return trial.number < 20 or wait_until((tmp_path / str(trial.number - 1)).exists)

    caplog.set_level(logging.INFO, "optuna_spark")
    logger = logging.getLogger("optuna_spark.runner")
    logger.addHandler(seen := Seen())
    try:
        study.optimize(objective, n_trials=26, n_jobs=2)
    finally:
        logger.removeHandler(seen)
    assert [trial.value for trial in study.trials] == [True] * 26
    grants = Counter(trial.system_attrs[ATTEMPT]["grant"] for trial in study.trials[20:])
    assert max(grants.values()) > 1, "no two of those that waited shared a job"


def test_short_trials_share_jobs(study: optuna_spark.SparkStudy, spark: SparkSession) -> None:
    study.optimize(do_nothing, n_trials=60, n_jobs=4)
    assert states(study) == {"COMPLETE": 60}
    assert [trial.number for trial in study.trials] == list(range(60))
    assert 0 < len(descriptions(spark, study)) < 40


def test_trial_processes_share_what_is_imported(spark: SparkSession, sqlite_url: str) -> None:
    def imported() -> list[str]:
        return sorted(name for name in sys.modules if name.split(".")[0] in packages)

    def objective(trial: Trial) -> float:
        value = trial.suggest_float("x", 0, 1)
        trial.set_user_attr("imported", imported())
        return value

    def beforehand(_: int) -> list[str]:
        import_late()
        return imported()

    packages = {"alembic", "mako", "numpy", "optuna", "pygments", "pymysql", "sqlalchemy"}
    study = new_study(spark, sqlite_url, sampler=optuna.samplers.TPESampler(n_startup_trials=1))
    study.optimize(objective, n_trials=4, n_jobs=1)
    [shared] = spark.sparkContext.parallelize([0], 1).map(beforehand).collect()
    assert set(study.trials[-1].user_attrs["imported"]) <= set(shared)


def test_no_two_trials_have_the_same_parameters(spark: SparkSession, sqlite_url: str) -> None:
    sampler = optuna.samplers.TPESampler(seed=1, n_startup_trials=5)
    before = pickle.dumps(sampler)
    study = new_study(spark, sqlite_url, sampler=sampler)
    study.optimize(do_nothing, n_trials=20, n_jobs=4)
    assert len({trial.params["x"] for trial in study.trials}) == 20
    assert study.sampler is sampler
    assert pickle.dumps(sampler) == before


# The budget


@pytest.mark.parametrize("n_trials", [1, 2, 3, 5, 7, 13])
def test_n_trials_is_exact(n_trials: int, study: optuna_spark.SparkStudy) -> None:
    study.optimize(do_nothing, n_trials=n_trials)
    assert states(study) == {"COMPLETE": n_trials}
    study.optimize(do_nothing, n_trials=n_trials, n_jobs=3)
    assert states(study) == {"COMPLETE": 2 * n_trials}


def test_trials_that_fail_count(study: optuna_spark.SparkStudy) -> None:
    def objective(trial: Trial) -> float:
        if trial.number % 3 == 0:
            raise ValueError("every third")
        if trial.number % 3 == 1:
            raise optuna.TrialPruned
        return 0.0

    study.optimize(objective, n_trials=20, catch=ValueError)
    assert states(study) == {"FAIL": 7, "PRUNED": 7, "COMPLETE": 6}


def test_total_trials_counts_those_of_earlier_calls(study: optuna_spark.SparkStudy) -> None:
    study.optimize(do_nothing, n_trials=5)
    study.optimize(do_nothing, total_trials=12)
    assert states(study) == {"COMPLETE": 12}
    study.optimize(do_nothing, total_trials=12)
    study.optimize(do_nothing, total_trials=3)
    assert states(study) == {"COMPLETE": 12}


def test_enqueued_trials_are_of_the_budget(study: optuna_spark.SparkStudy) -> None:
    for number in range(3):
        study.enqueue_trial({"x": number / 4})
    study.optimize(do_nothing, n_trials=8, n_jobs=4)
    assert states(study) == {"COMPLETE": 8}
    assert [trial.params["x"] for trial in study.trials[:3]] == [0.0, 0.25, 0.5]


# Shipped once


class Heavy:
    """An objective of 20 MB that tells where it was unpickled."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.data = np.random.default_rng(0).random(20 * 2**20 // 8)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        with self.log.open("a") as file:
            file.write(f"{os.getpid()}\n")

    def __call__(self, trial: Trial) -> float:
        trial.set_user_attr("pid", os.getpid())
        return float(self.data[trial.number])


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each function that becomes a Spark job."""
    sizes: list[int] = []
    submit = SparkBackend.submit

    def measure(backend: SparkBackend, func: Callable[[], Any], *more: Any, **named: Any) -> Any:
        # In a thread of its own: the next job of a thread has with it whatever broadcast the
        # thread pickled, and this one will be destroyed by then.
        with ThreadPoolExecutor(1) as thread:
            sizes.append(len(thread.submit(cloudpickle.dumps, func).result()))
        return submit(backend, func, *more, **named)

    monkeypatch.setattr(SparkBackend, "submit", measure)
    return sizes


@pytest.fixture
def broadcasts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes of each value that is broadcast; Spark broadcasts large functions too."""
    sizes: list[int] = []
    broadcast = SparkContext.broadcast

    def measure(context: SparkContext, value: Any) -> Any:
        sizes.append(len(cloudpickle.dumps(value)))
        return broadcast(context, value)

    monkeypatch.setattr(SparkContext, "broadcast", measure)
    return sizes


def test_what_an_objective_captures_is_sent_once(
    study: optuna_spark.SparkStudy, submitted: list[int], broadcasts: list[int], tmp_path: Path
) -> None:
    heavy = Heavy(tmp_path / "unpickled")
    study.optimize(heavy, n_trials=12, n_jobs=4)
    assert [trial.value for trial in study.trials] == heavy.data[:12].tolist()
    assert len(submitted) > 2
    assert max(submitted) < 100_000
    assert len(broadcasts) == 1
    assert broadcasts[0] > 20 * 2**20
    processes = {trial.user_attrs["pid"] for trial in study.trials}
    unpickled = [int(line) for line in heavy.log.read_text().split()]
    assert sorted(unpickled) == sorted(processes), "once in each process that runs a trial"
    assert os.getpid() not in unpickled


# Beside others in one session


def test_job_description_names_the_study(
    study: optuna_spark.SparkStudy, spark: SparkSession
) -> None:
    study.optimize(do_nothing, n_trials=3)
    shown = descriptions(spark, study)
    assert shown
    assert all(re.search(r"test_job_description\S+: \d+ trials?, grant \d+$", t) for t in shown)


def test_job_group_of_the_caller_is_its_own(
    study: optuna_spark.SparkStudy, spark: SparkSession
) -> None:
    spark.sparkContext.setJobGroup("mine", "my own job")
    try:
        study.optimize(do_nothing, n_trials=2)
        spark.range(3).count()
        group = spark.sparkContext.statusTracker().getJobIdsForGroup("mine")
        assert len(group) > 0
        assert spark.sparkContext.getLocalProperty("spark.job.description") == "my own job"
    finally:
        for name in ("spark.jobGroup.id", "spark.job.description", "spark.job.interruptOnCancel"):
            spark.sparkContext.setLocalProperty(name, None)


@pytest.fixture
def job_of_another_thread(spark: SparkSession, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Runs from before the test on, and ends when its result is asked for."""
    begun, end = tmp_path / "begun", tmp_path / "end"
    results: list[Any] = []

    def task(number: int) -> tuple[int, bool]:
        begun.touch()
        return number, wait_until(end.exists)

    def job() -> None:
        try:
            results.append(spark.sparkContext.parallelize([7], 1).map(task).collect())
        except Exception as error:
            results.append(error)

    def finish() -> Any:
        end.touch()
        thread.join(LONG)
        return results[0]

    thread = threading.Thread(target=job)
    thread.start()
    eventually(begun.exists)
    yield finish
    finish()


def end_by_timeout(study: Study) -> None:
    study.optimize(functools.partial(sleep, seconds=LONG), n_jobs=2, timeout=2)


def end_by_stop(study: Study) -> None:
    study.optimize(do_nothing, n_jobs=2, callbacks=[lambda study, trial: study.stop()])


def end_by_exception(study: Study) -> None:
    def objective(trial: Trial) -> float:
        if trial.number == 0:
            raise ZeroDivisionError
        time.sleep(LONG)
        return 0.0

    with pytest.raises(ZeroDivisionError):
        study.optimize(objective, n_jobs=2)


@pytest.mark.parametrize("end", [end_by_timeout, end_by_stop, end_by_exception])
def test_jobs_of_others_survive(
    end: Callable[[Study], None],
    study: optuna_spark.SparkStudy,
    job_of_another_thread: Callable[[], Any],
) -> None:
    end(study)
    assert "RUNNING" not in states(study)
    assert job_of_another_thread() == [(7, True)]


# The end of a run


def test_timeout_stops_trials_and_their_processes(
    study: optuna_spark.SparkStudy, tmp_path: Path
) -> None:
    def objective(trial: Trial) -> float:
        note(tmp_path, f"pid-{trial.number}", os.getpid())
        time.sleep(LONG)
        return 0.0

    began = time.monotonic()
    study.optimize(objective, timeout=2, n_jobs=SLOTS)
    assert time.monotonic() - began < 20
    begun = [trial for trial in study.trials if trial.state != TrialState.WAITING]
    assert begun
    assert {trial.state for trial in begun} == {TrialState.FAIL}
    assert {reason(trial) for trial in begun} == {"stopped: the timeout of 2 s was reached"}
    pids = [int(file.read_text()) for file in tmp_path.glob("pid-*")]
    assert pids
    eventually(lambda: not any(map(is_alive, pids)), 10)
    # What was created and never begun is of the next run.
    study.optimize(do_nothing, n_trials=SLOTS)
    assert states(study) == {"FAIL": len(begun), "COMPLETE": SLOTS}


def test_an_exception_stops_the_other_trials(
    study: optuna_spark.SparkStudy, tmp_path: Path
) -> None:
    def objective(trial: Trial) -> float:
        note(tmp_path, f"pid-{trial.number}", os.getpid())
        if trial.number == 0:
            wait_until(lambda: len(list(tmp_path.glob("pid-*"))) == 3)
            raise ZeroDivisionError("in trial 0")
        time.sleep(LONG)
        return 0.0

    with pytest.raises(ZeroDivisionError, match="in trial 0") as caught:
        study.optimize(objective, n_trials=9, n_jobs=3)
    assert "in objective" in str(caught.value.__cause__), "the executor's traceback"
    assert states(study) == {"FAIL": 3}
    assert reason(study.trials[0]) == "ZeroDivisionError: in trial 0"
    assert {reason(trial) for trial in study.trials[1:]} == {
        "stopped: ZeroDivisionError ended the run"
    }
    others = [int((tmp_path / f"pid-{number}").read_text()) for number in (1, 2)]
    eventually(lambda: not any(map(is_alive, others)), 10)


def stop_from_objective(study: Study, objective: Callable[[Trial], float]) -> None:
    def stopping(trial: Trial) -> float:
        value = objective(trial)
        if trial.number == 0:
            trial.study.stop()
        return value

    study.optimize(stopping, n_jobs=4)


def stop_from_callback(study: Study, objective: Callable[[Trial], float]) -> None:
    def callback(study: Study, trial: FrozenTrial) -> None:
        if trial.number == 0:
            study.stop()

    study.optimize(objective, n_jobs=4, callbacks=[callback])


@pytest.mark.parametrize("stop", [stop_from_objective, stop_from_callback])
def test_stop_stops_running_trials_too(
    stop: Callable[..., None], study: optuna_spark.SparkStudy
) -> None:
    def objective(trial: Trial) -> bool:
        trials = functools.partial(trial.study.get_trials, deepcopy=False)
        if trial.number == 0:
            running = (TrialState.RUNNING,)
            return wait_until(lambda: len(trials(states=running)) == 4)
        time.sleep(600)
        return False

    stop(study, objective)
    assert states(study) == {"COMPLETE": 1, "FAIL": 3}
    assert {reason(trial) for trial in study.trials[1:]} == {"stopped: study.stop() was called"}


# Processes that die


def exit_at_once() -> None:
    os._exit(7)


def kill_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def read_at_zero() -> None:
    ctypes.string_at(0)


@pytest.mark.parametrize(
    ("die", "how"),
    [
        (exit_at_once, "ended with exit code 7"),
        (kill_itself, "was killed by SIGKILL"),
        (read_at_zero, "was killed by SIGSEGV"),
    ],
)
def test_a_crash_fails_its_own_trial_alone(
    die: Callable[[], None], how: str, study: optuna_spark.SparkStudy, tmp_path: Path
) -> None:
    def objective(trial: Trial) -> float:
        if trial.number == 2:
            note(tmp_path, f"attempt-{time.time_ns()}")
            die()
        return trial.suggest_float("x", 0, 1)

    study.optimize(objective, n_trials=6, n_jobs=2, max_retries=1)
    assert states(study) == {"COMPLETE": 5, "FAIL": 1}
    assert study.trials[2].state == TrialState.FAIL
    expected = (
        f"its process was lost 2 times, at last: its process {how} on {socket.gethostname()}"
    )
    assert reason(study.trials[2]) == expected
    assert len(list(tmp_path.glob("attempt-*"))) == 2


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_trial_whose_process_died_goes_on(
    n_jobs: int, spark: SparkSession, sqlite_url: str, tmp_path: Path
) -> None:
    def objective(trial: Trial) -> float:
        x, n = trial.suggest_float("x", 0, 1), trial.suggest_int("n", 1, 10**6)
        if trial.number == 2:
            attempt = len(list(tmp_path.glob("attempt-*")))
            note(tmp_path, f"attempt-{attempt}", json.dumps([trial.number, x, n]))
            if attempt < 2:
                os._exit(7)
        return x

    study = new_study(spark, sqlite_url, sampler=optuna.samplers.RandomSampler(seed=1))
    study.optimize(objective, n_trials=6, n_jobs=n_jobs, max_retries=2)
    assert states(study) == {"COMPLETE": 6}
    trial = study.trials[2]
    attempts = [json.loads(file.read_text()) for file in sorted(tmp_path.glob("attempt-*"))]
    assert attempts == [[2, trial.params["x"], trial.params["n"]]] * 3
    assert trial.system_attrs[ATTEMPT]["begun"] == 3
    assert len({each.params["n"] for each in study.trials}) == 6, "it repeats no other trial"


# Drivers as processes of their own

DRIVER = """
import json, os, pathlib, sys, threading, time
import optuna, optuna_spark
from pyspark.sql import SparkSession

folder = pathlib.Path(sys.argv[1])

def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    attempt = len(list(folder.glob(f"{trial.number}-*")))
    draft = folder / f".draft-{os.getpid()}"
    draft.write_text(json.dumps({"pid": os.getpid(), "x": x}))
    draft.rename(folder / f"{trial.number}-{attempt}")
    if MODE == "kill the worker" and trial.number == 1 and attempt == 0:
        os.kill(os.getppid(), 9)
        time.sleep(600)
    if MODE == "wait":
        time.sleep(600)
    return x

def other(number):
    while not (folder / "end").exists():
        time.sleep(0.1)
    return number

if __name__ == "__main__":
    spark = SparkSession.builder.getOrCreate()
    study = optuna_spark.create_study(storage=sys.argv[2], study_name="s")
    collect = spark.sparkContext.parallelize([7], 1).map(other).collect
    thread = threading.Thread(target=lambda: print("the other job:", collect()))
    thread.start()
    try:
        study.optimize(objective, n_trials=4, n_jobs=2)
    except KeyboardInterrupt:
        print("KeyboardInterrupt")
    (folder / "end").touch()
    thread.join()
"""

# The same for the command line, which makes the study and the session itself.
FOLDER = 'folder = pathlib.Path(os.environ["FOLDER"])'


def start_driver(
    folder: Path, url: str, *, mode: str, master: str = "local[3]", command: bool = False
) -> subprocess.Popen[str]:
    script = folder / "driver.py"
    program = f"MODE = {mode!r}\n{DRIVER}"
    if command:
        program = program.replace("folder = pathlib.Path(sys.argv[1])", FOLDER)
    script.write_text(program)
    options = f"--master {master} --conf spark.ui.enabled=false pyspark-shell"
    environment = os.environ | {
        "PYSPARK_SUBMIT_ARGS": options,
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": os.pathsep.join([str(Path(optuna_spark.__file__).parents[1])]),
        "FOLDER": str(folder),
    }
    arguments = [str(script), str(folder), url]
    if command:
        arguments = ["-m", "optuna_spark", "optimize", f"{script}:objective", "--storage", url]
        arguments += ["--study-name", "s", "--n-trials", "4", "--n-jobs", "2"]
        arguments += ["--direction", "minimize"]
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", *arguments],
        env=environment,
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def trials_begun(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in sorted(folder.glob("[0-9]*-[0-9]*"))]


@pytest.fixture
def drivers() -> Iterator[list[subprocess.Popen[str]]]:
    """Those started; none outlives its test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.mark.parametrize(
    ("command", "number", "everyone", "code"),
    [
        pytest.param(False, signal.SIGINT, False, 0, id="a program"),
        pytest.param(True, signal.SIGINT, False, 130, id="the command"),
        pytest.param(True, signal.SIGINT, True, 130, id="the command, from the terminal"),
        pytest.param(True, signal.SIGTERM, False, 143, id="the command, by SIGTERM"),
    ],
)
def test_an_interrupted_driver_leaves_nothing_running(
    command: bool,
    number: signal.Signals,
    everyone: bool,
    code: int,
    drivers: list[subprocess.Popen[str]],
    sqlite_url: str,
    tmp_path: Path,
) -> None:
    driver = start_driver(tmp_path, sqlite_url, mode="wait", command=command)
    drivers.append(driver)
    eventually(lambda: len(trials_begun(tmp_path)) == 2 or driver.poll() is not None, 120)
    # A terminal's Ctrl-C reaches all processes of the foreground.
    (os.killpg if everyone else os.kill)(driver.pid, number)
    out, errors = driver.communicate(timeout=60)
    stored = optuna.load_study(study_name="s", storage=sqlite_url)
    assert states(stored) == {"FAIL": 2}, errors
    assert all("ended the run" in reason(trial) for trial in stored.trials), errors
    pids = [begun["pid"] for begun in trials_begun(tmp_path)]
    assert len(pids) == 2
    eventually(lambda: not any(map(is_alive, pids)), 10)
    if command:
        assert "Traceback" not in errors
    else:
        assert out == "KeyboardInterrupt\nthe other job: [7]\n", errors
    assert driver.returncode == code, errors


def test_a_task_that_spark_runs_again_goes_on_with_its_trial(
    drivers: list[subprocess.Popen[str]], sqlite_url: str, tmp_path: Path
) -> None:
    driver = start_driver(tmp_path, sqlite_url, mode="kill the worker", master="local[3,4]")
    drivers.append(driver)
    _, errors = driver.communicate(timeout=180)
    assert driver.returncode == 0, errors
    stored = optuna.load_study(study_name="s", storage=sqlite_url)
    assert states(stored) == {"COMPLETE": 4}
    trial = stored.trials[1]
    first, second = (json.loads((tmp_path / f"1-{n}").read_text()) for n in (0, 1))
    assert first["pid"] != second["pid"]
    assert first["x"] == second["x"] == trial.value
    assert trial.system_attrs[ATTEMPT]["begun"] == 2
    assert len(trials_begun(tmp_path)) == 5
    assert "A job was lost" not in errors, "it was not Spark that ran it again"
