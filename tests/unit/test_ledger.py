"""What a run may take of a study, with other runs alive, over and dead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from optuna_spark.ledger import Ledger
from optuna_spark.liveness import PULSE
from optuna_spark.settings import Limits
from optuna_spark.trial_task import ATTEMPT, FAILURE, RUN

ALIVE = {"beat": 1, "at": None, "dead_after": 1e9, "process": None, "ended": False}


@pytest.fixture
def study() -> optuna.Study:
    made = optuna.create_study()
    for run, ended in (("alive", False), ("over", True)):
        pulse = {**ALIVE, "ended": ended}
        made._storage.set_study_system_attr(made._study_id, PULSE + run, pulse)
    return made


def ledger_of(study: optuna.Study, run: str = "mine", **limits: Any) -> Ledger:
    made = Ledger(study._storage, study._study_id, run, Limits(**limits))
    made.refresh(())
    return made


def add(
    study: optuna.Study, state: TrialState, run: str | None = None, attempt_of: str | None = None
) -> int:
    attributes: dict[str, Any] = {} if run is None else {RUN: run}
    if attempt_of is not None:
        attributes[ATTEMPT] = {"run": attempt_of, "host": "h"}
    values = [1.0] if state == TrialState.COMPLETE else None
    template = create_trial(state=state, system_attrs=attributes, values=values)
    return study._storage.create_new_trial(study._study_id, template)


WAITING, RUNNING, COMPLETE = TrialState.WAITING, TrialState.RUNNING, TrialState.COMPLETE


@pytest.mark.parametrize(
    ("trial", "expected"),
    [
        pytest.param((RUNNING, "over", "over"), "FAIL", id="begun-and-left"),
        pytest.param((RUNNING, "over", None), "FAIL", id="claimed-and-left"),
        pytest.param((RUNNING, "alive", "over"), "FAIL", id="taken-over-and-left"),
        pytest.param((RUNNING, "alive", "alive"), "RUNNING", id="begun-by-one-that-is-alive"),
        pytest.param((RUNNING, "over", "alive"), "RUNNING", id="taken-over-by-one-that-is-alive"),
        pytest.param((RUNNING, None, None), "RUNNING", id="of-optuna-alone"),
        pytest.param((WAITING, "over", None), "WAITING", id="not-begun"),
        pytest.param((WAITING, "over", "over"), "WAITING", id="not-begun-again"),
    ],
)
def test_what_the_dead_left_is_failed(
    study: optuna.Study, trial: tuple[Any, ...], expected: str
) -> None:
    add(study, *trial)
    ledger_of(study)
    [left] = study.trials
    assert left.state.name == expected
    if expected == "FAIL":
        reason = left.system_attrs[FAILURE]["reason"]
        assert reason.startswith("the driver of its run ended without it")


def test_what_nobody_has_is_taken_first(study: optuna.Study) -> None:
    enqueued, left = add(study, WAITING), add(study, WAITING, "over")
    add(study, WAITING, "alive")
    ledger = ledger_of(study, n_trials=9)
    taken = ledger.take(3)
    assert taken[:2] == [enqueued, left]
    assert taken[2] == study.trials[-1]._trial_id
    owners = [trial.system_attrs.get(RUN) for trial in study.trials]
    assert owners == ["mine", "mine", "alive", "mine"]


def test_what_this_run_has_is_not_taken_again(study: optuna.Study) -> None:
    ledger = ledger_of(study, n_trials=9)
    [first] = ledger.take(1)
    assert first is not None
    ledger.refresh([first])
    assert ledger.take(1) != [first]


@pytest.mark.parametrize(
    ("limits", "finished", "in_hand", "expected"),
    [
        pytest.param({"n_trials": 10}, 4, 2, 4, id="n-trials-counts-this-call-alone"),
        pytest.param({"total_trials": 10}, 4, 2, 10 - 3 - 2 - 2, id="total-counts-all"),
        pytest.param({}, 4, 2, None, id="no-limit"),
    ],
)
def test_how_many_are_left(
    study: optuna.Study, limits: dict[str, int], finished: int, in_hand: int, expected: int | None
) -> None:
    for state, run in (
        (COMPLETE, None),
        (COMPLETE, "alive"),
        (RUNNING, "over"),  # it is failed, and counts as finished
        (RUNNING, "alive"),
        (WAITING, "alive"),
        (WAITING, "over"),
        (RUNNING, None),
    ):
        add(study, state, run)
    assert ledger_of(study, **limits).left(finished, in_hand) == expected


def test_of_two_who_take_the_last_trial_one_steps_back(study: optuna.Study) -> None:
    study._storage.set_study_system_attr(study._study_id, f"{PULSE}theirs", ALIVE)
    add(study, COMPLETE)
    mine, theirs = ledger_of(study, total_trials=2), ledger_of(study, "theirs", total_trials=2)
    assert mine.left(0, 0) == theirs.left(0, 0) == 1
    assert len(mine.take(1)) == 1
    assert theirs.take(1) == []
    theirs.refresh(())
    assert theirs.left(0, 0) == 0
    assert theirs.is_short(), "the one that took it may die"


def test_what_a_run_steps_back_from_waits_for_another(study: optuna.Study) -> None:
    add(study, COMPLETE)
    mine = ledger_of(study, total_trials=2)
    add(study, RUNNING, "alive")
    assert mine.take(1) == []
    released = study.trials[-1]
    assert (released.state, released.system_attrs[RUN]) == (WAITING, None)
    later = ledger_of(study, n_trials=1)
    assert later.take(1) == [released._trial_id]


def test_leftovers_of_the_dead_do_not_stand_in_the_way(study: optuna.Study) -> None:
    add(study, COMPLETE)
    for _ in range(5):
        add(study, WAITING, "over")
    ledger = ledger_of(study, total_trials=3)
    taken: list[int] = []
    while ledger.left(0, len(taken)):
        [trial_id] = ledger.take(1)
        assert trial_id is not None
        taken.append(trial_id)
        ledger.refresh(taken)
    assert len(taken) == 2


@pytest.mark.parametrize("state", [RUNNING, COMPLETE])
def test_a_trial_is_failed_once(study: optuna.Study, state: TrialState) -> None:
    trial_id = add(study, state)
    ledger = ledger_of(study)
    failed = ledger.fail(trial_id, "a reason")
    if state == COMPLETE:
        assert (failed.state, failed.values) == (COMPLETE, [1.0])
    else:
        assert failed.system_attrs[FAILURE] == {"reason": "a reason", "traceback": None}
    assert ledger.fail(trial_id, "another").system_attrs == failed.system_attrs


def test_reads_are_few(study: optuna.Study, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no other run has anything unfinished, its pulse is not asked for."""
    asked: list[Any] = []
    real: Callable[..., Any] = study._storage.get_study_system_attrs
    monkeypatch.setattr(
        study._storage, "get_study_system_attrs", lambda *a: (asked.append(a), real(*a))[1]
    )
    add(study, COMPLETE, "alive")
    add(study, WAITING)
    ledger_of(study).refresh(())
    assert asked == []
