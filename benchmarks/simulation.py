"""The driver alone with very many task slots: its jobs are Spark's, and their trials only sleep.

They sleep in Spark's JVM, and their study is in memory. Neither Python workers nor a database are
needed, and what is measured is the driver: its threads, its memory, and how busy it keeps slots.

    python -m benchmarks.simulation SLOTS TRIALS SECONDS
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage
from optuna.trial import TrialState
from pyspark.sql import SparkSession

from optuna_spark.backend import SparkBackend
from optuna_spark.runner import Runner
from optuna_spark.settings import Limits
from optuna_spark.trial_task import TrialOutcome


class SleepingBackend(SparkBackend):
    """Has each trial of a grant sleep in a Spark job.

    Args:
        session: A session with as many task slots as are simulated.
        storage: The study's, in this process.
        slots: How many trials run at once.
        seconds: How long each sleeps.
    """

    def __init__(
        self, session: SparkSession, storage: BaseStorage, slots: int, seconds: float
    ) -> None:
        super().__init__(session, "simulation")
        self._storage, self._slots, self._seconds = storage, slots, seconds
        sleep = f"SELECT java_method('java.lang.Thread', 'sleep', {round(1000 * seconds)}L)"
        self._sleep = session.sql(sleep)._jdf.toJavaRDD()
        self.began: list[float] = []

    def slots(self) -> int:
        """The simulated task slots."""
        return self._slots

    def _run_job(self, func: Callable[[], Any], description: str) -> tuple[bool, Any]:
        self._describe_job(description)
        grant = func.args[2]  # type: ignore[attr-defined]  # of `run_grant`
        outcomes = []
        for trial_id in grant.trial_ids:
            self._storage.set_trial_state_values(trial_id, TrialState.RUNNING)
            self.began.append(time.monotonic())
            self._sleep.count()
            self._storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.0])
            number = self._storage.get_trial_number_from_id(trial_id)
            done = trial_id, TrialState.COMPLETE, number, (0.0,), self._seconds
            outcomes.append(TrialOutcome(*done))
        return True, outcomes


def simulate(slots: int, trials: int, seconds: float) -> dict[str, float]:
    """Run a study, and say what the driver took for it."""
    quiet = "--conf spark.ui.enabled=false --conf spark.ui.showConsoleProgress=false"
    options = f"--driver-memory 4g {quiet}"
    os.environ["PYSPARK_SUBMIT_ARGS"] = f"--master local[{slots}] {options} pyspark-shell"
    session = SparkSession.builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study()
    storage = study._storage
    backend = SleepingBackend(session, storage, slots, seconds)
    payload = session.sparkContext.broadcast(None)
    limits = Limits(trials, None, -1, None, None, 3)
    runner = Runner(
        study,
        study._study_id,
        storage,
        backend,
        payload,
        "simulation",
        limits,
        (),
        grows=False,
        show_progress_bar=False,
    )
    most = Peak(jvm_of(session))
    most.start()
    began, used = time.monotonic(), time.process_time()
    runner.run()
    wall, used = time.monotonic() - began, time.process_time() - used
    numbers = {
        "ideal/wall": seconds * max(1.0, trials / slots) / wall,
        "s until all slots are busy": sorted(backend.began)[min(slots, trials) - 1] - began,
        "ms of CPU for each trial": 1000 * used / trials,
        **most.end(),
        "not complete": sum(trial.state != TrialState.COMPLETE for trial in study.trials),
    }
    session.stop()
    return numbers


class Peak(threading.Thread):
    """Watches how many threads and how much memory the driver has at most.

    Args:
        jvm: Process id of its JVM.
    """

    def __init__(self, jvm: int) -> None:
        super().__init__(daemon=True)
        self._jvm = jvm
        self._ended = threading.Event()
        self._threads = self._jvm_threads = self._jvm_mb = 0

    def run(self) -> None:
        """Look until the end."""
        while not self._ended.wait(0.2):
            self._threads = max(self._threads, threading.active_count())
            status = dict(
                line.split(":", 1)
                for line in Path(f"/proc/{self._jvm}/status").read_text().splitlines()
            )
            self._jvm_threads = max(self._jvm_threads, int(status["Threads"]))
            self._jvm_mb = max(self._jvm_mb, int(status["VmRSS"].split()[0]) // 1024)

    def end(self) -> dict[str, float]:
        """Look no more, and say what was seen."""
        self._ended.set()
        self.join()
        return {
            "threads": self._threads,
            "MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
            "threads of the JVM, trials included": self._jvm_threads,
            "MB of the JVM, trials included": self._jvm_mb,
        }


def jvm_of(session: SparkSession) -> int:
    """Process id of the session's JVM."""
    jvm = session.sparkContext._jvm
    assert jvm is not None
    return int(jvm.java.lang.ProcessHandle.current().pid())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("slots", type=int)
    parser.add_argument("trials", type=int)
    parser.add_argument("seconds", type=float)
    given = parser.parse_args()
    print(json.dumps(simulate(given.slots, given.trials, given.seconds), indent=2))
