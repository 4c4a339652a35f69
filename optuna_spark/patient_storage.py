"""Optuna's relational storage, made to outlive a database that is away for a while.

A call that fails for a reason that passes is made again until the grace period is over. An answer
that was lost on the way is no reason to count twice: each write, made again, has one effect.
"""

from __future__ import annotations

import copy
import functools
import itertools
import logging
import random
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

import sqlalchemy
from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError, UpdateFinishedTrialError
from optuna.storages import BaseStorage

# Private, as is what this module overrides below; Optuna 4.9 and 5.0 have all of it.
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from optuna_spark.exceptions import StorageUnreachable
from optuna_spark.lean_storage import LeanStorage
from optuna_spark.settings import StorageAddress
from optuna_spark.storage_errors import (
    AWAY,
    TOO_MANY_CONNECTIONS,
    error_code,
    is_passing,
    reason_of,
    translate,
)

_logger = logging.getLogger(__name__)

_FIRST_DELAY, _BUSY_DELAY, _AWAY_DELAY = 0.05, 0.4, 2.0  # seconds between two tries
_SPEAK_AFTER = 1.0  # seconds of waiting that are worth a word

P = ParamSpec("P")
T = TypeVar("T")


class ClaimUnclear(Exception):
    """The answer to a claim was lost, and the trial runs by now: by this claim or by another."""


class ParameterTaken(BaseException):
    """Another attempt of the same trial has chosen another value for a parameter.

    No `Exception`, so that an objective does not swallow it: the attempt must begin anew, with
    the values that are stored.
    """


def _not_told(seconds: float) -> None:
    """Nobody asked to be told."""


def patiently(
    call: Callable[[], T],
    address: StorageAddress,
    grace: Callable[[], float],
    *,
    passes: Callable[[BaseException], bool] = is_passing,
    tell: Callable[[float], None] = _not_told,
) -> T:
    """Make a call until it succeeds.

    Args:
        call: What may fail for a while.
        address: Of the database, for messages.
        grace: Says for how many seconds it may fail; who winds up shortens it meanwhile.
        passes: Says of an error whether the call may succeed later.
        tell: Told, with each try, how many seconds the call waits already.

    Raises:
        StorageUnreachable: the grace period is over.
        Exception: whatever else the call raises.
    """
    began: float | None = None
    told = False
    for tries in itertools.count():
        try:
            return call()
        except Exception as error:
            if not passes(error):
                raise
            began = began or time.monotonic()
            waited = time.monotonic() - began
            caught: Exception = error
            reason = reason_of(error)
            if waited >= grace():
                if tries == 0 or error_code(error) in TOO_MANY_CONNECTIONS:
                    raise translate(address, error) from error
                raise StorageUnreachable(
                    f"The database {address} was away for {waited:.0f} s ({reason}): start it, "
                    "and run the same command again to finish the study."
                ) from error
        if waited > _SPEAK_AFTER:
            tell(waited)
            if not told:
                told = True
                message = "%s is away (%s): waiting for it up to %g s."
                _logger.warning(message, address, reason, grace())
        # A lock or a connection is free again soon, and others are waiting for it too.
        longest = _AWAY_DELAY if error_code(caught) in AWAY else _BUSY_DELAY
        time.sleep(min(longest, _FIRST_DELAY * 2 ** min(tries, 9)) * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable")


def _patient(
    method: Callable[Concatenate[Any, P], T],
) -> Callable[Concatenate[PatientStorage, P], T]:
    @functools.wraps(method)
    def call(self: PatientStorage, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self.patiently(functools.partial(method, self, *args, **kwargs))

    return call


class PatientStorage(LeanStorage):
    """A `LeanStorage` whose calls wait for the database.

    Args:
        address: For messages.
        url: As `RDBStorage` takes it.
        options: Of the SQLAlchemy engine.
        grace: Seconds for which the database may be away.
        skip: Neither create the tables nor check their version.
    """

    def __init__(
        self,
        address: StorageAddress,
        url: str,
        options: dict[str, Any],
        *,
        grace: float,
        skip: bool,
    ) -> None:
        self.address = address
        self.grace = grace
        # Told, with each try, how many seconds a call waits already.
        self.on_wait: Callable[[float], None] = _not_told
        super().__init__(
            url,
            engine_kwargs=options,
            skip_compatibility_check=skip,
            skip_table_creation=skip,
        )

    def patiently(self, call: Callable[[], T]) -> T:
        """Make a call until it succeeds, as the function of that name does."""

        def attempt() -> T:
            try:
                return call()
            except Exception as error:
                if is_passing(error):
                    # A commit that failed may have left its transaction open.
                    self.engine.dispose()
                raise

        return patiently(attempt, self.address, lambda: self.grace, tell=self.on_wait)

    def create_new_study(
        self, directions: Sequence[StudyDirection], study_name: str | None = None
    ) -> int:
        """As in Optuna."""
        name = study_name or f"no-name-{uuid.uuid4()}"
        create = _Counted(functools.partial(super().create_new_study, directions, name))
        try:
            return self.patiently(create)
        except DuplicatedStudyError:
            if create.calls > 1:
                study_id = self.get_study_id_from_name(name)
                same = self.get_study_directions(study_id) == list(directions)
                if same and not self.get_all_trials(study_id):
                    return study_id
            raise

    def delete_study(self, study_id: int) -> None:
        """As in Optuna."""
        delete = _Counted(functools.partial(super().delete_study, study_id))
        try:
            self.patiently(delete)
        except KeyError:
            if delete.calls == 1:
                raise

    def _create_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None = None
    ) -> FrozenTrial:
        tried: int | None = None  # the id that a try had which may have succeeded

        def create() -> FrozenTrial:
            nonlocal tried
            frozen = copy.deepcopy(template_trial or create_trial(state=TrialState.RUNNING))
            try:
                with _create_scoped_session(self.scoped_session) as session:
                    models.StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
                    # The server gives no id twice, so that a trial of this one is the one.
                    made = tried and session.get(models.TrialModel, tried)
                    prepare = self._get_prepared_new_trial
                    trial: Any = made or prepare(study_id, template_trial, session)
                    tried = trial.trial_id
                    frozen.number, frozen._trial_id = trial.number, trial.trial_id
                    frozen.datetime_start = trial.datetime_start
            except Exception as error:
                if error_code(error) not in AWAY:  # it says that nothing was done
                    tried = None
                raise
            return frozen

        return self.patiently(create)

    def create_trials(self, study_id: int, count: int, key: str, value: Any) -> list[int]:
        """As in `LeanStorage`."""
        create = functools.partial(super().create_trials, study_id, count, key, value)
        self._creating_from = None
        return self.patiently(create)

    def claim_trial(self, trial_id: int, attributes: Mapping[str, Any]) -> bool:
        """As in `LeanStorage`; the attributes tell this claim from every other one."""
        claim = _Counted(functools.partial(super().claim_trial, trial_id, attributes))
        if self.patiently(claim):
            return True
        if claim.calls == 1:
            return False
        stored = self.get_trial(trial_id).system_attrs
        return attributes.items() <= stored.items()  # then it was done, and the answer lost

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        arguments = trial_id, param_name, param_value_internal, distribution, previous_distribution
        try:
            self.patiently(functools.partial(super()._set_trial_param, *arguments))
        except sqlalchemy.exc.IntegrityError:
            self.forget_claimed()
            if self.get_trial_param(trial_id, param_name) != param_value_internal:
                raise ParameterTaken(param_name) from None

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """As in Optuna.

        Raises:
            ClaimUnclear: a claim's answer was lost, and the trial runs.
        """
        write = _Counted(
            functools.partial(super().set_trial_state_values, trial_id, state, values)
        )
        try:
            changed = self.patiently(write)
        except UpdateFinishedTrialError:
            if write.calls > 1:
                trial = self.get_trial(trial_id)
                same = values is None or trial.values == list(values)
                if trial.state == state and same:
                    return True
            raise
        if write.calls > 1 and state == TrialState.RUNNING and not changed:
            raise ClaimUnclear(f"trial {trial_id}")
        return changed

    # Reads, and writes that leave the same behind however often they are made.
    get_study_id_from_name = _patient(LeanStorage.get_study_id_from_name)
    get_study_name_from_id = _patient(LeanStorage.get_study_name_from_id)
    get_study_directions = _patient(LeanStorage.get_study_directions)
    get_study_user_attrs = _patient(LeanStorage.get_study_user_attrs)
    get_study_system_attrs = _patient(LeanStorage.get_study_system_attrs)
    get_all_studies = _patient(LeanStorage.get_all_studies)
    get_trial = _patient(LeanStorage.get_trial)
    get_trial_id_from_study_id_trial_number = _patient(
        LeanStorage.get_trial_id_from_study_id_trial_number
    )
    get_trial_param = _patient(LeanStorage.get_trial_param)
    get_trial_user_attrs = _patient(LeanStorage.get_trial_user_attrs)
    get_trial_system_attrs = _patient(LeanStorage.get_trial_system_attrs)
    _get_best_trial_id = _patient(LeanStorage._get_best_trial_id)
    _get_trials = _patient(LeanStorage._get_trials)
    whole_trials = _patient(LeanStorage.whole_trials)
    set_study_user_attr = _patient(LeanStorage.set_study_user_attr)
    set_study_system_attr = _patient(LeanStorage.set_study_system_attr)
    set_trial_user_attr = _patient(LeanStorage.set_trial_user_attr)
    set_trial_system_attr = _patient(LeanStorage.set_trial_system_attr)
    set_trial_intermediate_value = _patient(LeanStorage.set_trial_intermediate_value)
    _write_held = _patient(LeanStorage._write_held)
    record_heartbeat = _patient(LeanStorage.record_heartbeat)
    _get_stale_trial_ids = _patient(LeanStorage._get_stale_trial_ids)


class _Counted(Generic[T]):
    """A call that knows how often it was made."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self.calls = 0

    def __call__(self) -> T:
        self.calls += 1
        return self._call()


def server_seconds(storage: BaseStorage) -> float | None:
    """The time of day by the database server's clock; None where it cannot be asked alike."""
    backend = getattr(storage, "_backend", storage)  # Optuna wraps it in a cache
    if not isinstance(backend, PatientStorage):
        return None
    statement = {
        "mysql": "SELECT UNIX_TIMESTAMP(NOW(6))",
        "mariadb": "SELECT UNIX_TIMESTAMP(NOW(6))",
        "sqlite": "SELECT strftime('%s', 'now')",
    }.get(backend.engine.dialect.name)
    if statement is None:
        return None

    def ask() -> float:
        with backend.engine.connect() as connection:
            return float(connection.execute(sqlalchemy.text(statement)).scalar_one())

    return backend.patiently(ask)
