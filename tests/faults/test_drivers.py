"""Faults of drivers: two at once, killed and started again, interrupted."""

from __future__ import annotations

import re
import signal
import sys
import time
from pathlib import Path

from tests.faults.harness import LONG, PATIENCE, TRIALS, Row, kill
from tests.fixtures_spark import eventually

HALF = ("--n-trials", str(TRIALS // 2))

WITH_ANOTHER_JOB = """
import os, sys, threading, time
from pathlib import Path
import optuna_spark
from optuna_spark.objectives import load_objective
from optuna_spark.session import find_session

interrupted = Path(os.environ["OPTUNA_SPARK_FAULT_FOLDER"], "interrupted")

def after_the_interrupt(number):
    while not interrupted.exists():
        time.sleep(0.1)
    return number

def count():
    numbers = spark.sparkContext.parallelize([1, 2], 2).map(after_the_interrupt).collect()
    print("counted", sum(numbers), flush=True)

if __name__ == "__main__":
    spark = find_session()
    spark.sparkContext.setLogLevel("ERROR")
    other = threading.Thread(target=count)
    other.start()
    objective, _ = load_objective(sys.argv[1])
    study = optuna_spark.create_study(study_name="s")
    try:
        study.optimize(objective, n_trials=40, n_jobs=2)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        interrupted.touch()
    other.join()
    spark.stop()
"""


def test_two_drivers_on_one_study(row: Row) -> None:
    first = row.start(*HALF)
    second = row.start(*HALF)
    assert first.wait() == 0
    row.judge(second)


def test_two_drivers_on_one_study_and_an_executor_is_killed(row: Row) -> None:
    first = row.start(*HALF)
    eventually(row.states, PATIENCE)
    second = row.start(*HALF)
    for complete in (4, 14):
        row.when_complete(complete)
        kill(row.a_running().executor)
    assert first.wait() == 0
    row.judge(second)


def test_a_driver_is_killed_and_started_again(row: Row) -> None:
    command = ("--total-trials", str(TRIALS))
    times = 10 if LONG else 3
    for strike in range(times):
        driver = row.start(*command)
        # As soon as a trial runs, and then with ever more trials behind it.
        eventually(row.running, PATIENCE)
        row.when_complete(strike * (TRIALS - 10) // times)
        driver.kill()
    row.start(*command)
    row.judge(failed=None)


def test_a_database_is_away_for_too_long(row: Row) -> None:
    command = ("--total-trials", str(TRIALS))
    driver = row.start(*command, grace=3)
    row.when_complete(5)
    row.server.kill()
    try:
        assert driver.wait() == 1
    finally:
        row.server.restart()
    assert re.fullmatch(
        r"optuna-spark: The database \S+ was away for [3-9] s \(.*\): start it, and run the same "
        r"command again to finish the study\.",
        driver.output.splitlines()[-1],
    )
    row.none_is_left()
    row.start(*command)
    row.judge(failed=None)


def test_ctrl_c(row: Row) -> None:
    row.settle(seconds=2)
    driver = row.start(slots=8)
    row.when_complete(1)
    eventually(lambda: row.states()["RUNNING"] == 8)
    struck = time.monotonic()
    driver.signal(signal.SIGINT)
    assert driver.wait(30) == 130
    row.none_is_left(10)
    assert time.monotonic() - struck < 10
    row.judge_trials(row.trials())
    assert len(row.trials()) < TRIALS


def test_ctrl_c_leaves_other_jobs_alone(row: Row) -> None:
    program = row.folder / "program.py"
    program.write_text(WITH_ANOTHER_JOB)
    objective = f"{Path(__file__).with_name('objective.py')}:objective"
    command = [sys.executable, str(program), objective]
    driver = row.start_command(command, row.environment(slots=4))
    row.when_complete(5)
    row.a_running()
    driver.signal(signal.SIGINT)
    assert driver.wait() == 0
    assert driver.output.splitlines()[-2:] == ["interrupted", "counted 3"]
    row.judge_trials(row.trials())
    row.none_is_left()
