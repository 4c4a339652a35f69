"""System attributes that wait for their trial's next write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage
from optuna.trial import TrialState

from optuna_spark.addresses import find_address
from optuna_spark.held_attributes import HeldAttributes
from optuna_spark.storage import (
    claim_trial,
    close_storage,
    create_trials,
    open_storage,
    remember_trial,
)
from tests.fixtures_spark import eventually

UNIFORM = optuna.distributions.FloatDistribution(0, 1)


class Claimed:
    """A trial that is claimed, and another view of the same database."""

    def __init__(self, folder: Path) -> None:
        address = find_address(f"sqlite:///{folder}/study.db")
        self.other = open_storage(address, create_schema=True)
        self.storage = open_storage(address, create_schema=False)
        self.study_id = self.other.create_new_study([optuna.study.StudyDirection.MINIMIZE])
        self.trial_id = self.claim_another()
        self.held.seconds = 600.0

    @property
    def held(self) -> HeldAttributes:
        found: HeldAttributes = self.storage._backend.held  # type: ignore[attr-defined]
        return found

    def claim_another(self) -> int:
        [trial_id] = create_trials(self.other, self.study_id, 1, "run", "r")
        assert claim_trial(self.storage, trial_id, {})
        remember_trial(self.storage, self.study_id, self.storage.get_trial(trial_id))
        return trial_id

    def hold(self, key: str, value: object) -> None:
        self.storage.set_trial_system_attr(self.trial_id, key, value)

    def stored(self, storage: BaseStorage | None = None) -> dict[str, object]:
        attributes = (storage or self.other).get_trial(self.trial_id).system_attrs
        return {key: value for key, value in attributes.items() if key != "run"}


@pytest.fixture
def claimed(tmp_path: Path) -> Iterator[Claimed]:
    found = Claimed(tmp_path)
    yield found
    close_storage(found.storage)
    close_storage(found.other)


def test_they_go_with_the_next_parameter(claimed: Claimed) -> None:
    claimed.hold("a", 1)
    claimed.hold("b", [2])
    assert claimed.stored() == {}
    assert claimed.stored(claimed.storage) == {"a": 1, "b": [2]}
    claimed.storage.set_trial_param(claimed.trial_id, "x", 0.5, UNIFORM)
    assert claimed.stored() == {"a": 1, "b": [2]}
    assert not claimed.held


def test_they_go_with_the_state(claimed: Claimed) -> None:
    claimed.hold("reason", "none")
    claimed.storage.set_trial_state_values(claimed.trial_id, TrialState.FAIL)
    assert claimed.stored() == {"reason": "none"}


def test_they_wait_no_longer_than_told(claimed: Claimed) -> None:
    claimed.held.seconds = 0.05
    claimed.hold("a", 1)
    eventually(claimed.stored)
    assert claimed.stored() == {"a": 1}
    claimed.hold("a", 2)  # another timer
    eventually(lambda: claimed.stored() == {"a": 2})


def test_a_list_of_trials_has_them(claimed: Claimed) -> None:
    claimed.hold("a", 1)
    [trial] = claimed.storage.get_all_trials(claimed.study_id)
    assert trial.system_attrs["a"] == 1


def test_a_write_that_fails_leaves_them_for_the_next(claimed: Claimed) -> None:
    claimed.hold("a", 1)
    wrong = optuna.distributions.CategoricalDistribution(["x"])
    claimed.storage.set_trial_param(claimed.trial_id, "x", 0.5, UNIFORM)
    claimed.hold("a", 2)
    with pytest.raises(ValueError, match="distribution"):
        claimed.storage.set_trial_param(claimed.trial_id, "x", 0, wrong)
    assert claimed.stored() == {"a": 1}
    claimed.storage.set_trial_user_attr(claimed.trial_id, "u", 1)
    assert claimed.stored() == {"a": 2}


def test_those_of_a_trial_that_is_over_are_forgotten(claimed: Claimed) -> None:
    claimed.hold("a", 1)
    claimed.other.set_trial_state_values(claimed.trial_id, TrialState.FAIL)
    with pytest.raises(optuna.exceptions.UpdateFinishedTrialError):
        claimed.storage.set_trial_param(claimed.trial_id, "x", 0.5, UNIFORM)
    claimed.claim_another()
    assert claimed.stored() == {}
    assert not claimed.held


def test_the_driver_holds_none(claimed: Claimed) -> None:
    claimed.other.set_trial_system_attr(claimed.trial_id, "a", 1)
    assert claimed.stored(claimed.storage) == {}  # it knows its own trial by itself
    [trial] = claimed.other.get_all_trials(claimed.study_id)
    assert trial.system_attrs["a"] == 1
