"""Unfinished trials in lists: what is not asked for is not read, and nobody can tell."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable, Iterator

import optuna
import pytest
import sqlalchemy
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from optuna_spark.addresses import find_address
from optuna_spark.storage import close_storage, leave_unread, open_storage, study_snapshot


@pytest.fixture
def others(sqlite_url: str) -> Iterator[optuna.Study]:
    """The study as another process has it: one trial is finished, two run, one waits."""
    study = optuna.create_study(study_name="s", storage=sqlite_url)
    study.tell(study.ask(), 1.0)
    for number in (1, 2):
        trial = study.ask({"x": optuna.distributions.FloatDistribution(0, 1)})
        trial.report(float(number), step=3)
        trial.set_user_attr("name", f"trial {number}")
        trial.storage.set_trial_system_attr(trial._trial_id, "left out", number)
        trial.storage.set_trial_system_attr(trial._trial_id, "read", number)
    study.enqueue_trial({"x": 0.5})
    yield study
    close_storage(study._storage)
    study._storage._backend.engine.dispose()  # type: ignore[attr-defined]


@pytest.fixture
def storage(others: optuna.Study, sqlite_url: str) -> Iterator[BaseStorage]:
    opened = open_storage(find_address(sqlite_url), create_schema=False)
    opened._backend.fresh_seconds = 0.0  # type: ignore[attr-defined]
    yield opened
    close_storage(opened)


@pytest.fixture
def selects(storage: BaseStorage) -> list[str]:
    """The statements that read, as they are made."""
    made: list[str] = []

    def note(connection: object, cursor: object, statement: str, *rest: object) -> None:
        if statement.startswith(("SELECT", "WITH")):
            made.append(statement)

    engine = storage._backend.engine  # type: ignore[attr-defined]
    sqlalchemy.event.listen(engine, "before_cursor_execute", note)
    return made


def listed(storage: BaseStorage) -> list[FrozenTrial]:
    return storage.get_all_trials(1, deepcopy=False)


def test_numbers_and_states_cost_one_statement(storage: BaseStorage, selects: list[str]) -> None:
    found = [(trial.number, trial._trial_id, trial.state) for trial in listed(storage)]
    running, waiting = TrialState.RUNNING, TrialState.WAITING
    assert found == [
        (0, 1, TrialState.COMPLETE),
        (1, 2, running),
        (2, 3, running),
        (3, 4, waiting),
    ]
    assert [trial.state.is_finished() for trial in listed(storage)].count(True) == 1
    assert len(selects) == 2


def test_the_rest_of_all_is_read_at_once_and_from_then_on_beforehand(
    storage: BaseStorage, others: optuna.Study, selects: list[str]
) -> None:
    _, one, two, waiting = listed(storage)
    assert one.params == others.trials[1].params
    assert two.user_attrs == {"name": "trial 2"}
    assert two.intermediate_values == {3: 2.0}
    assert waiting.system_attrs["fixed_params"] == {"x": 0.5}
    assert len(selects) == 2
    del selects[:]
    _, one, two, waiting = listed(storage)
    assert two.user_attrs == {"name": "trial 2"}
    assert len(selects) == 1


def test_what_has_happened_since_is_in_the_next_list(
    storage: BaseStorage, others: optuna.Study
) -> None:
    before = listed(storage)
    assert before[1].user_attrs == {"name": "trial 1"}
    running = optuna.Trial(others, before[1]._trial_id)
    running.set_user_attr("late", True)
    assert listed(storage)[1].user_attrs == {"name": "trial 1", "late": True}
    others.tell(1, 7.0)
    assert listed(storage)[1].value == 7.0
    assert listed(storage)[1].state == TrialState.COMPLETE


@pytest.mark.parametrize(
    "asked",
    [
        pytest.param(lambda trial: trial, id="compared"),
        pytest.param(copy.copy, id="copied"),
        pytest.param(copy.deepcopy, id="copied deeply"),
        pytest.param(lambda trial: pickle.loads(pickle.dumps(trial)), id="pickled"),
    ],
)
def test_it_is_an_ordinary_trial(
    storage: BaseStorage, others: optuna.Study, asked: Callable[[FrozenTrial], FrozenTrial]
) -> None:
    for trial, expected in zip(listed(storage), others.trials, strict=True):
        assert expected == asked(trial)
        assert asked(trial) == expected
        assert type(asked(trial)) is FrozenTrial


def test_two_lists_are_equal(storage: BaseStorage, others: optuna.Study) -> None:
    first, second = listed(storage)[1:], listed(storage)[1:]
    assert first == second
    assert first[0] != others.trials[2]
    assert {repr(trial) for trial in listed(storage)} == {repr(each) for each in others.trials}


def test_a_name_that_no_trial_has(storage: BaseStorage) -> None:
    with pytest.raises(AttributeError, match="colour"):
        listed(storage)[1].colour  # type: ignore[attr-defined]  # noqa: B018


def test_copies_for_the_user_are_whole(storage: BaseStorage, others: optuna.Study) -> None:
    assert storage.get_all_trials(1) == others.trials
    snapshot = study_snapshot(storage, 1)
    assert snapshot is not None
    assert list(pickle.loads(snapshot)[2].trials.values()) == others.trials


def test_it_has_been_deleted(storage: BaseStorage, others: optuna.Study) -> None:
    trial = listed(storage)[1]
    optuna.delete_study(study_name="s", storage=others._storage)
    with pytest.raises(KeyError):
        trial.params  # noqa: B018


def test_attributes_that_lists_leave_out(storage: BaseStorage, selects: list[str]) -> None:
    leave_unread(storage, ("left out",))
    assert listed(storage)[1].system_attrs == {"read": 1}
    assert listed(storage)[1].system_attrs == {"read": 1}
    assert storage.get_trial(2).system_attrs == {"left out": 1, "read": 1}


def test_another_thread_was_quicker(storage: BaseStorage, others: optuna.Study) -> None:
    trial = listed(storage)[1]
    late = functools.partial(type(trial).__getattr__, trial)  # type: ignore[attr-defined]
    assert trial.params == others.trials[1].params
    assert late("user_attrs") == {"name": "trial 1"}
