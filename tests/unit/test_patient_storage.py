"""A storage that waits for its database, on SQLite, with the errors of a server put in its way."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pymysql
import pytest
import sqlalchemy
from optuna.distributions import FloatDistribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial

from optuna_spark.addresses import find_address
from optuna_spark.exceptions import StorageError, StorageUnreachable
from optuna_spark.patient_storage import (
    ClaimUnclear,
    ParameterTaken,
    PatientStorage,
    server_seconds,
)
from optuna_spark.storage import close_storage, open_storage, patience

MINIMIZE = [StudyDirection.MINIMIZE]


@pytest.fixture
def storage(sqlite_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[PatientStorage]:
    """A storage that waits without waiting."""
    monkeypatch.setattr("optuna_spark.patient_storage.time.sleep", lambda seconds: None)
    opened = open_storage(find_address(sqlite_url), create_schema=True)
    backend: PatientStorage = opened._backend  # type: ignore[attr-defined]
    yield backend
    close_storage(opened)


@pytest.fixture
def lose(storage: PatientStorage) -> Callable[..., None]:
    """Has commits fail: before they are done, or after, when only the answer is lost."""
    plan: list[str] = []

    def commit(connection: sqlite3.Connection) -> None:
        what = plan.pop(0) if plan else "nothing"
        if what == "answer":
            connection.commit()
        if what != "nothing":
            raise pymysql_error(2013)

    @sqlalchemy.event.listens_for(storage.engine, "commit")
    def on_commit(connection: Any) -> None:
        commit(connection.connection.dbapi_connection)

    return lambda *what: plan.extend(what)


def pymysql_error(code: int) -> sqlalchemy.exc.OperationalError:
    return sqlalchemy.exc.OperationalError("COMMIT", {}, pymysql.err.OperationalError(code, "x"))


def states(storage: PatientStorage, study_id: int) -> list[str]:
    return [trial.state.name for trial in storage.get_all_trials(study_id)]


@pytest.mark.parametrize("lost", [["commit"], ["answer"], ["commit", "answer", "commit"]])
class TestAWriteCountsOnce:
    def test_a_study(
        self, storage: PatientStorage, lose: Callable[..., None], lost: list[str]
    ) -> None:
        lose(*lost)
        study_id = storage.create_new_study(MINIMIZE, "s")
        assert [study._study_id for study in storage.get_all_studies()] == [study_id]

    def test_a_new_trial(
        self, storage: PatientStorage, lose: Callable[..., None], lost: list[str]
    ) -> None:
        study_id = storage.create_new_study(MINIMIZE, "s")
        lose(*lost)
        trial_id = storage.create_new_trial(study_id)
        [trial] = storage.get_all_trials(study_id)
        assert (trial._trial_id, trial.number, trial.state) == (trial_id, 0, TrialState.RUNNING)

    def test_a_trial_from_a_template(
        self, storage: PatientStorage, lose: Callable[..., None], lost: list[str]
    ) -> None:
        study_id = storage.create_new_study(MINIMIZE, "s")
        template = create_trial(state=TrialState.WAITING, system_attrs={"ours": 1})
        storage.create_new_trial(study_id, template)
        lose(*lost)
        trial_id = storage.create_new_trial(study_id, template)
        first, second = storage.get_all_trials(study_id)
        assert (second._trial_id, second.number) == (trial_id, 1)
        assert template.system_attrs == {"ours": 1}, "the caller's own object"
        assert first.system_attrs == second.system_attrs == {"ours": 1}
        assert states(storage, study_id) == ["WAITING", "WAITING"]

    def test_trials_that_wait(
        self, storage: PatientStorage, lose: Callable[..., None], lost: list[str]
    ) -> None:
        study_id = storage.create_new_study(MINIMIZE, "s")
        storage.create_trials(study_id, 2, "run", "r")
        lose(*lost)
        trial_ids = storage.create_trials(study_id, 2, "run", "r")
        trials = storage.get_all_trials(study_id)
        assert [trial.number for trial in trials] == [0, 1, 2, 3]
        assert [trial._trial_id for trial in trials[2:]] == trial_ids
        assert all(trial.system_attrs == {"run": "r"} for trial in trials)
        assert states(storage, study_id) == ["WAITING"] * 4

    def test_a_claim(
        self, storage: PatientStorage, lose: Callable[..., None], lost: list[str]
    ) -> None:
        study_id = storage.create_new_study(MINIMIZE, "s")
        [trial_id] = storage.create_trials(study_id, 1, "run", "r")
        lose(*lost)
        assert storage.claim_trial(trial_id, {"claimer": "first"})
        assert not storage.claim_trial(trial_id, {"claimer": "second"})
        assert storage.get_trial(trial_id).system_attrs == {"run": "r", "claimer": "first"}

    def test_a_result(
        self, storage: PatientStorage, lose: Callable[..., None], lost: list[str]
    ) -> None:
        study_id = storage.create_new_study(MINIMIZE, "s")
        trial_id = storage.create_new_trial(study_id)
        lose(*lost)
        assert storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
        assert storage.get_trial(trial_id).values == [0.5]

    def test_a_parameter(
        self, storage: PatientStorage, lose: Callable[..., None], lost: list[str]
    ) -> None:
        study_id = storage.create_new_study(MINIMIZE, "s")
        trial_id = storage.create_new_trial(study_id)
        lose(*lost)
        storage.set_trial_param(trial_id, "x", 0.25, FloatDistribution(0, 1))
        assert storage.get_trial(trial_id).params == {"x": 0.25}

    def test_what_is_deleted(
        self, storage: PatientStorage, lose: Callable[..., None], lost: list[str]
    ) -> None:
        study_id = storage.create_new_study(MINIMIZE, "s")
        lose(*lost)
        storage.delete_study(study_id)
        assert storage.get_all_studies() == []


def test_a_claim_that_was_not_made_is_made(
    storage: PatientStorage, lose: Callable[..., None]
) -> None:
    trial_id = waiting_trial(storage)
    lose("commit")
    assert storage.set_trial_state_values(trial_id, TrialState.RUNNING)


def test_a_claim_whose_answer_was_lost_is_unclear(
    storage: PatientStorage, lose: Callable[..., None]
) -> None:
    trial_id = waiting_trial(storage)
    lose("answer")
    with pytest.raises(ClaimUnclear):
        storage.set_trial_state_values(trial_id, TrialState.RUNNING)
    assert storage.set_trial_state_values(trial_id, TrialState.RUNNING) is False


def waiting_trial(storage: PatientStorage) -> int:
    study_id = storage.create_new_study(MINIMIZE, "s")
    return storage.create_new_trial(study_id, create_trial(state=TrialState.WAITING))


def test_what_others_did_meanwhile_is_no_success(
    storage: PatientStorage, lose: Callable[..., None]
) -> None:
    study_id = storage.create_new_study(MINIMIZE, "s")
    with pytest.raises(DuplicatedStudyError):
        storage.create_new_study(MINIMIZE, "s")
    storage.create_new_trial(study_id)
    lose("commit")
    with pytest.raises(DuplicatedStudyError):
        storage.create_new_study(MINIMIZE, "s")
    with pytest.raises(KeyError):
        storage.delete_study(study_id + 1)


@pytest.mark.parametrize(
    ("state", "values"), [(TrialState.FAIL, None), (TrialState.COMPLETE, [1.0])]
)
def test_another_result_than_the_stored_one_is_refused(
    storage: PatientStorage, lose: Callable[..., None], state: TrialState, values: Any
) -> None:
    study_id = storage.create_new_study(MINIMIZE, "s")
    trial_id = storage.create_new_trial(study_id)
    storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5])
    lose("commit")
    with pytest.raises(UpdateFinishedTrialError):
        storage.set_trial_state_values(trial_id, state, values)


def test_a_parameter_that_another_attempt_has_chosen(storage: PatientStorage) -> None:
    study_id = storage.create_new_study(MINIMIZE, "s")
    trial_id = storage.create_new_trial(study_id)
    storage.set_trial_param(trial_id, "x", 0.25, FloatDistribution(0, 1))
    storage.set_trial_param(trial_id, "x", 0.25, FloatDistribution(0, 1))
    with pytest.raises(ParameterTaken):
        storage.set_trial_param(trial_id, "x", 0.5, FloatDistribution(0, 1))
    assert storage.get_trial(trial_id).params == {"x": 0.25}


def test_every_call_is_made_again(
    storage: PatientStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_id = storage.create_new_study(MINIMIZE, "s")
    trial_id = storage.create_new_trial(study_id)
    storage.set_trial_param(trial_id, "x", 0.25, FloatDistribution(0, 1))
    away = 0
    real = sqlalchemy.pool.QueuePool.connect

    def connect(pool: sqlalchemy.pool.QueuePool) -> Any:
        nonlocal away
        if away:
            away -= 1
            raise pymysql_error(2003)
        return real(pool)

    monkeypatch.setattr(sqlalchemy.pool.QueuePool, "connect", connect)
    calls: list[Callable[[], Any]] = [
        lambda: storage.get_study_id_from_name("s"),
        lambda: storage.get_study_name_from_id(study_id),
        lambda: storage.get_study_directions(study_id),
        lambda: storage.get_study_user_attrs(study_id),
        lambda: storage.get_study_system_attrs(study_id),
        storage.get_all_studies,
        lambda: storage.get_all_trials(study_id),
        lambda: storage.get_trial(trial_id),
        lambda: storage.get_trial_id_from_study_id_trial_number(study_id, 0),
        lambda: storage.get_trial_param(trial_id, "x"),
        lambda: storage.get_trial_user_attrs(trial_id),
        lambda: storage.get_trial_system_attrs(trial_id),
        lambda: storage.set_study_user_attr(study_id, "a", 1),
        lambda: storage.set_study_system_attr(study_id, "a", 1),
        lambda: storage.set_trial_user_attr(trial_id, "a", 1),
        lambda: storage.set_trial_system_attr(trial_id, "a", 1),
        lambda: storage.set_trial_intermediate_value(trial_id, 0, 0.5),
        lambda: storage.record_heartbeat(trial_id),
        lambda: storage.set_trial_state_values(trial_id, TrialState.COMPLETE, [0.5]),
        lambda: storage.get_best_trial(study_id),
        lambda: storage.create_new_trial(study_id),
        lambda: storage.create_new_study(MINIMIZE, "other"),
        lambda: storage.delete_study(study_id),
    ]
    for call in calls:
        away = 2
        call()
        assert away == 0


def test_past_the_grace_period_it_says_what_to_do(storage: PatientStorage) -> None:
    def call() -> None:
        raise pymysql_error(2003)

    storage.grace = 0.01
    expected = r"^The database sqlite:.* was away for 0 s \(x\): start it, and run the same .*\.$"
    with pytest.raises(StorageUnreachable, match=expected):
        storage.patiently(call)


def test_without_a_grace_period_it_says_what_may_be_wrong(storage: PatientStorage) -> None:
    def call() -> None:
        raise pymysql_error(2003)

    storage.grace = 0
    with pytest.raises(StorageError, match=r"cannot be used \(x\): correct its URL"):
        storage.patiently(call)


def test_other_errors_are_raised_at_once(storage: PatientStorage) -> None:
    calls = 0

    def call() -> None:
        nonlocal calls
        calls += 1
        raise pymysql_error(1045)

    with pytest.raises(sqlalchemy.exc.OperationalError):
        storage.patiently(call)
    assert calls == 1


def test_a_long_wait_is_told(storage: PatientStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr("optuna_spark.patient_storage.time.monotonic", lambda: next(clock))
    told: list[float] = []
    storage.on_wait = told.append
    errors = [pymysql_error(1213) for _ in range(4)]

    def call() -> str:
        if errors:
            raise errors.pop()
        return "done"

    assert storage.patiently(call) == "done"
    assert told == sorted(told)
    assert len(told) == 4


def test_a_call_that_waits_hears_that_patience_is_short(storage: PatientStorage) -> None:
    tries = 0

    def call() -> None:
        nonlocal tries
        tries += 1
        if tries == 3:
            storage.grace = 0  # as another thread does
        raise pymysql_error(2003)

    with pytest.raises(StorageUnreachable):
        storage.patiently(call)
    assert tries == 3


def test_patience_can_be_shorter_for_a_while(storage: PatientStorage) -> None:
    with patience(storage, 5):
        assert storage.grace == 5
    assert storage.grace == 120


def test_the_servers_clock(storage: PatientStorage, tmp_path: Path) -> None:
    seconds = server_seconds(optuna.storages.get_storage(storage))
    assert seconds == pytest.approx(Path(tmp_path).stat().st_mtime, abs=3600)
    assert server_seconds(optuna.storages.InMemoryStorage()) is None
