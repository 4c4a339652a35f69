"""Which runs are over, by what is in the study and by two clocks that the test turns."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import optuna
import pytest

from optuna_spark import liveness
from optuna_spark.exceptions import StorageUnreachable
from optuna_spark.liveness import PULSE, Pulse, Watch, process_is_gone, this_process
from tests.fixtures_spark import eventually

DEAD_AFTER = 150.0
ELSEWHERE = {"host": "other", "pid": 1, "system": "another boot", "started": "1"}


def pulse(beat: int = 1, at: float | None = 1000.0, **more: Any) -> dict[str, Any]:
    given = {"beat": beat, "at": at, "dead_after": DEAD_AFTER, "process": ELSEWHERE}
    return {f"{PULSE}r": {**given, "ended": False, **more}}


@pytest.mark.parametrize(
    ("attributes", "clock", "expected"),
    [
        pytest.param(pulse(), 1000.0, False, id="a-fresh-pulse"),
        pytest.param(pulse(), 1149.0, False, id="just-alive"),
        pytest.param(pulse(), 1151.0, True, id="too-old-by-the-servers-clock"),
        pytest.param(pulse(), 900.0, False, id="a-clock-that-was-set-back"),
        pytest.param(pulse(at=None), 9999.0, False, id="no-time-in-the-pulse"),
        pytest.param(pulse(), None, False, id="no-clock-at-the-server"),
        pytest.param(pulse(ended=True), 1000.0, True, id="it-has-said-so"),
        pytest.param({}, 1000.0, False, id="never-seen"),
        pytest.param(pulse(process=this_process()), 1000.0, False, id="a-process-of-this-host"),
        pytest.param(
            pulse(process={**this_process(), "started": "1"}), 1000.0, True, id="a-reused-pid"
        ),
    ],
)
def test_a_run_seen_for_the_first_time(
    attributes: dict[str, Any], clock: float | None, expected: bool
) -> None:
    assert Watch().over("r", attributes, clock, 50.0) is expected


@pytest.mark.parametrize("clock", [1000.0, None])
def test_a_pulse_that_stays_the_same_is_watched(clock: float | None) -> None:
    watch = Watch()
    assert not watch.over("r", pulse(), clock, 0.0)
    assert not watch.over("r", pulse(), clock, DEAD_AFTER)
    assert watch.over("r", pulse(), clock, DEAD_AFTER + 1)


def test_a_pulse_that_beats_is_alive_for_ever() -> None:
    watch = Watch()
    for beat in range(100):
        assert not watch.over("r", pulse(beat, at=None), None, beat * DEAD_AFTER)


def test_an_outage_of_the_database_is_no_death() -> None:
    # Nobody could write for two minutes; the one who looks first must not conclude too much.
    assert not Watch().over("r", pulse(at=1000.0), 1000.0 + 120 + 12, 0.0)


def test_a_run_without_a_pulse_is_over_one_day() -> None:
    watch = Watch()
    assert not watch.over("r", {}, None, 0.0)
    assert watch.over("r", {}, None, 1000.0)


def test_who_is_over_stays_over() -> None:
    watch = Watch()
    assert watch.over("r", pulse(ended=True), None, 0.0)
    assert watch.over("r", pulse(beat=2), None, 1.0)


def test_a_process_that_was_killed_is_gone() -> None:
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        there = {**this_process(), "pid": process.pid, "started": liveness._started(process.pid)}
        assert not process_is_gone(there)
        process.kill()
        eventually(lambda: process_is_gone(there))  # while it is a zombie, too
        process.wait()
        assert process_is_gone(there)
    assert not process_is_gone({**there, "system": "another boot"})
    assert not process_is_gone({**there, "system": None})
    assert not process_is_gone(None)


def test_this_process_is_alive() -> None:
    assert this_process()["pid"] == os.getpid()
    assert not process_is_gone(this_process())


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(liveness, "PULSE_SECONDS", 0.01)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Ours alone: what Optuna logs depends on the verbosity that other tests set."""
    return [r.getMessage() for r in caplog.records if r.name == liveness.__name__]


def beats(study: optuna.Study) -> Callable[[], dict[str, Any]]:
    return lambda: study._storage.get_study_system_attrs(study._study_id)[f"{PULSE}r"]


@pytest.mark.usefixtures("quick")
def test_a_pulse_beats_from_beginning_to_end() -> None:
    study = optuna.create_study()
    read = beats(study)
    with Pulse(study._storage, study._study_id, "r"):
        assert read()["ended"] is False
        eventually(lambda: read()["beat"] > 3)
        assert read()["process"] == this_process()
    assert read()["ended"] is True
    last = read()["beat"]
    assert read()["beat"] == last


@pytest.mark.usefixtures("quick")
def test_a_beat_that_fails_is_not_the_last(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study = optuna.create_study()
    real, failing = study._storage.set_study_system_attr, [True] * 3

    def write(*args: Any) -> None:
        if failing and len(written) > 1:
            failing.pop()
            raise StorageUnreachable("away")
        written.append(args)
        real(*args)

    written: list[Any] = []
    monkeypatch.setattr(study._storage, "set_study_system_attr", write)
    with Pulse(study._storage, study._study_id, "r"):
        eventually(lambda: not failing and len(written) > 5)
    assert warnings_of(caplog) == ["A sign of life could not be written: away"] * 3


def test_the_first_error_is_the_one_that_is_raised(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    study = optuna.create_study()

    def write(*args: Any) -> None:
        raise StorageUnreachable("away")

    def run() -> None:
        with Pulse(study._storage, study._study_id, "r"):
            monkeypatch.setattr(study._storage, "set_study_system_attr", write)
            raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        run()
    assert warnings_of(caplog) == ["The end of the run could not be written: away"]
