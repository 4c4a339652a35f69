"""The objective of the fault table: it says where it runs, and has the faults from within.

It travels to executors by value, so that all it needs is in this file.
"""

from __future__ import annotations

import collections
import ctypes
import itertools
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import optuna

DIRECTION = "minimize"


def objective(trial: optuna.Trial) -> float:
    """A sum of squares, after a while."""
    folder = Path(Path(os.environ["OPTUNA_SPARK_FAULT_FOLDER"], "row").read_text())
    settings = json.loads((folder / "settings.json").read_text())
    x = trial.suggest_float("x", -10, 10)
    y = trial.suggest_float("y", -10, 10)
    pids = line_of_processes()
    begun = mark(folder, trial, pids)
    if trial.number in settings["loses_worker"] and begun == 1:
        os.kill(pids[-3], signal.SIGKILL)
        time.sleep(600)
    if trial.number in settings["holds_gil"]:
        # A loop in C that neither lets another thread run nor looks for signals.
        collections.deque(itertools.repeat(0, 10**15), maxlen=0)
    if trial.number in settings["masks_signals"]:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        ctypes.PyDLL(None).sleep(600)
    time.sleep(settings["slow"].get(str(trial.number), settings["seconds"]))
    while trial.number >= int(held_from := (folder / "hold").read_text()):
        (folder / "held" / str(trial.number)).write_text(held_from)
        time.sleep(0.02)
    return x * x + y * y


def mark(folder: Path, trial: optuna.Trial, pids: list[int]) -> int:
    """Leave a line in the trial's file, and say how many lines it has then."""
    note: dict[str, Any] = {"trial": trial.number, "pids": pids, "params": trial.params}
    path = folder / "marks" / str(trial.number)
    with path.open("a") as file:
        file.write(json.dumps(note) + "\n")
    return len(path.read_text().splitlines())


def line_of_processes() -> list[int]:
    """This process, its parent and so on: the last three are Python worker, daemon, executor."""
    pids = [os.getpid()]
    while b"CoarseGrainedExecutorBackend" not in Path(f"/proc/{pids[-1]}/cmdline").read_bytes():
        if pids[-1] == 1:
            time.sleep(600)  # the executor was killed, and this process is about to follow
        status = Path(f"/proc/{pids[-1]}/stat").read_text().rpartition(")")[2].split()
        pids.append(int(status[1]))
    return pids
