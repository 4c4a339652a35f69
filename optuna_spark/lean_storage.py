"""Optuna's relational storage with fewer statements.

What a process knows it does not ask, and what belongs together is written in one transaction. The
rows are the same, so that every other Optuna process reads and writes them as ever. Where the
schema or the database is not one that these statements were written for, Optuna's own are used.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, check_distribution_compatibility
from optuna.storages import RDBStorage

# Private, as is what this module overrides below; Optuna 4.9 and 5.0 have all of it.
from optuna.storages._rdb import models
from optuna.storages._rdb.storage import _create_scoped_session
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy import Connection, Table, func, select
from sqlalchemy.dialects import mysql, sqlite

from optuna_spark.held_attributes import HeldAttributes
from optuna_spark.lazy_trial import Rest
from optuna_spark.storage_errors import optuna_errors
from optuna_spark.trial_rows import (
    FINISHED,
    INTERMEDIATES,
    NEWER_OR_THESE,
    NEWER_TRIALS,
    ONE_TRIAL,
    PARAMS,
    STUDIES,
    SYSTEM_ATTRS,
    THESE_TRIALS,
    TRIALS,
    UNFINISHED,
    USER_ATTRS,
    VALUES,
    copy_of,
    distribution_of,
    distribution_text,
    knows_schema,
    of_unfinished,
    stored_time,
    trials_of,
)

READS = "optuna_spark_reads"  # execution option: the transaction writes nothing

_DIALECTS = ("mysql", "mariadb", "sqlite")
_MOST_NAMED = 10_000  # trials in one query; SQLite takes 32,766 values


class LeanStorage(RDBStorage):
    """An `RDBStorage` that asks little and writes at once; it takes the same arguments.

    Of the trial that this process has claimed it keeps what it wrote, and does not read it again.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._claimed: FrozenTrial | None = None
        # Seconds for which a list of trials, in which this process has changed nothing, is new
        # enough: samplers ask for it several times in a row.
        self.fresh_seconds = 0.0
        self.held = HeldAttributes(self._write_held)  # of that trial; a list writes them first
        self.unread: tuple[str, ...] = ()  # system attributes that lists of trials lack
        self._lists_whole = False  # unfinished trials in them are read at once, not when asked for
        self.known_studies: dict[str, int] = {}  # ids that this process was told, by name
        self._read_at: dict[int, float] = {}  # by study
        self._creating_from: int | None = None  # the first number that a creation has tried
        self._lean = knows_schema() and self.engine.dialect.name in _DIALECTS

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        del state["held"]  # it has a lock
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.held = HeldAttributes(self._write_held)

    def get_study_id_from_name(self, study_name: str) -> int:
        """As in Optuna."""
        known = self.known_studies.get(study_name)
        return super().get_study_id_from_name(study_name) if known is None else known

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """As in Optuna.

        Raises:
            KeyError: there is no such trial.
        """
        if not self._lean:
            return super().get_trial(trial_id)
        if (claimed := self._mine(trial_id)) is not None:
            return copy_of(claimed)
        with self._reading() as connection:
            found = trials_of(connection.execute(ONE_TRIAL, {"trial_id": trial_id}))
        if not found:
            raise KeyError(models.NOT_FOUND_MSG)
        return found[0]

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        newer = trial_id_greater_than
        these = [trial_id for trial_id in included_trial_ids if trial_id <= newer]
        if not self._lean or states is not None or len(these) > _MOST_NAMED:
            return super()._get_trials(study_id, states, included_trial_ids, newer)
        if self.held:
            self._write_held()
        now = time.monotonic()
        if now < self._read_at.get(study_id, -math.inf) + self.fresh_seconds:
            return []
        asked = {"study_id": study_id, "newer": newer, **self._how()}
        query = NEWER_TRIALS
        if these:
            query, asked["these"] = NEWER_OR_THESE, these
        with self._reading() as connection:
            rest = None if self._lists_whole else Rest(self.whole_trials)
            found = trials_of(connection.execute(query, asked), rest)
        if not found and newer < 0:
            self.get_study_name_from_id(study_id)  # which says if there is no such study
        self._read_at[study_id] = now
        return found

    def whole_trials(self, trial_ids: list[int]) -> list[FrozenTrial]:
        """Trials as they are now, in the order of their ids."""
        if self.held:
            self._write_held()
        self._lists_whole = True  # who has asked for the rest of a list will ask again
        found = []
        with self._reading() as connection:
            for begin in range(0, len(trial_ids), _MOST_NAMED):
                asked = {"these": trial_ids[begin : begin + _MOST_NAMED], **self._how()}
                found += trials_of(connection.execute(THESE_TRIALS, asked))
        return found

    def _how(self) -> dict[str, Any]:
        return {
            "whole": tuple(TrialState) if self._lists_whole else FINISHED,
            "unread": self.unread,
        }

    def create_trials(self, study_id: int, count: int, key: str, value: Any) -> list[int]:
        """Create trials that wait, in one transaction.

        Args:
            study_id: The study.
            count: How many.
            key: System attribute that each gets.
            value: Its value; no other process creates trials with the same one.

        Returns:
            Their ids, in the order of their numbers.

        Raises:
            KeyError: there is no such study.
        """
        if not self._lean:
            template = create_trial(state=TrialState.WAITING, system_attrs={key: value})
            return [self.create_new_trial(study_id, template) for _ in range(count)]
        text = json.dumps(value)
        of_study = TRIALS.c.study_id == study_id
        with self._writing() as connection:
            # A number follows from a count, which two creators must not take at once.
            locked = select(STUDIES.c.study_id).where(STUDIES.c.study_id == study_id)
            if connection.execute(locked.with_for_update()).one_or_none() is None:
                raise KeyError(models.NOT_FOUND_MSG)
            counted = select(func.count()).select_from(TRIALS).where(of_study)
            first = connection.execute(counted).scalar_one()
            if self._creating_from is None:
                self._creating_from = first
            elif earlier := self._created(connection, study_id, key, text):
                return earlier  # by an earlier try, whose answer was lost
            shared = {"study_id": study_id, "state": TrialState.WAITING}
            trials = [{**shared, "number": number} for number in range(first, first + count)]
            if count == 1:
                made = connection.execute(TRIALS.insert(), trials[0]).inserted_primary_key
                trial_ids = list(made or ())
            else:
                connection.execute(TRIALS.insert().values(trials))
                new = select(TRIALS.c.trial_id).where(of_study, TRIALS.c.number >= first)
                trial_ids = list(connection.execute(new.order_by(TRIALS.c.number)).scalars())
            attributes = [
                {"trial_id": trial_id, "key": key, "value_json": text} for trial_id in trial_ids
            ]
            connection.execute(SYSTEM_ATTRS.insert().values(attributes))
        return trial_ids

    def _created(self, connection: Connection, study_id: int, key: str, text: str) -> list[int]:
        joined = TRIALS.join(SYSTEM_ATTRS, SYSTEM_ATTRS.c.trial_id == TRIALS.c.trial_id)
        found = select(TRIALS.c.trial_id).select_from(joined).order_by(TRIALS.c.number)
        since = TRIALS.c.study_id == study_id, TRIALS.c.number >= self._creating_from
        marked = SYSTEM_ATTRS.c.key == key, SYSTEM_ATTRS.c.value_json == text
        return list(connection.execute(found.where(*since, *marked)).scalars())

    def claim_trial(self, trial_id: int, attributes: Mapping[str, Any]) -> bool:
        """Turn a trial that waits RUNNING, and say who did, in one transaction.

        Args:
            trial_id: The trial.
            attributes: System attributes that it gets.

        Returns:
            Whether it was waiting.

        Raises:
            UpdateFinishedTrialError: it is finished.
            KeyError: there is no such trial.
        """
        self._claimed = None
        self.held.drop()
        if not self._lean:
            claimed = super().set_trial_state_values(trial_id, TrialState.RUNNING)
            for key, value in attributes.items() if claimed else ():
                super().set_trial_system_attr(trial_id, key, value)
            return claimed
        with self._writing() as connection:
            waits = TRIALS.c.trial_id == trial_id, TRIALS.c.state == TrialState.WAITING
            began = stored_time(datetime.now())
            run = TRIALS.update().values(state=TrialState.RUNNING, datetime_start=began)
            if connection.execute(run.where(*waits)).rowcount == 0:
                self._check_unfinished(connection, trial_id)
                return False
            for key, value in attributes.items():
                content = {"value_json": json.dumps(value)}
                self._store(connection, SYSTEM_ATTRS, trial_id, {"key": key}, content)
            mine = trials_of(connection.execute(ONE_TRIAL, {"trial_id": trial_id}))
        [self._claimed] = mine
        return True

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """As in Optuna."""
        if self._lean and state == TrialState.RUNNING and values is None:
            return LeanStorage.claim_trial(self, trial_id, {})
        if not self._lean or not state.is_finished():
            return super().set_trial_state_values(trial_id, state, values)
        now = datetime.now()
        with self._writing() as connection:
            unfinished = TRIALS.c.trial_id == trial_id, TRIALS.c.state.in_(UNFINISHED)
            end = TRIALS.update().values(state=state, datetime_complete=stored_time(now))
            if connection.execute(end.where(*unfinished)).rowcount == 0:
                self._check_unfinished(connection, trial_id)
            for objective, value in enumerate(values or ()):
                stored, kind = models.TrialValueModel.value_to_stored_repr(value)
                content = {"value": stored, "value_type": kind}
                self._store(connection, VALUES, trial_id, {"objective": objective}, content)
        if (claimed := self._mine(trial_id)) is not None:
            claimed.state, claimed.datetime_complete = state, now
            claimed.values = None if values is None else list(values)
        return True

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        if not self._lean:
            # Optuna ignores that another process has stored a value, and goes on with its own.
            with _create_scoped_session(self.scoped_session) as session:
                self._set_trial_param_without_commit(
                    session,
                    trial_id,
                    param_name,
                    param_value_internal,
                    distribution,
                    previous_distribution,
                )
            return
        with self._writing() as connection:
            if previous_distribution is None:
                previous_distribution = _stored_distribution(connection, trial_id, param_name)
            if previous_distribution is not None:
                try:
                    check_distribution_compatibility(previous_distribution, distribution)
                except ValueError:
                    self._check_unfinished(connection, trial_id)  # which goes first
                    raise
            row = {
                "param_name": param_name,
                "param_value": param_value_internal,
                "distribution_json": distribution_text(distribution),
            }
            insert = of_unfinished(PARAMS.insert(), PARAMS, trial_id, row)
            if connection.execute(insert).rowcount == 0:
                self._check_unfinished(connection, trial_id)
        if (claimed := self._mine(trial_id)) is not None:
            claimed.distributions[param_name] = distribution
            claimed.params[param_name] = distribution.to_external_repr(param_value_internal)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As in Optuna."""
        if not self._lean:
            super().set_trial_user_attr(trial_id, key, value)
            return
        text = json.dumps(value)
        self._store_alone(USER_ATTRS, trial_id, {"key": key}, {"value_json": text})
        if (claimed := self._mine(trial_id)) is not None:
            claimed.user_attrs[key] = json.loads(text)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """As in Optuna."""
        if not self._lean:
            super().set_trial_system_attr(trial_id, key, value)
            return
        text = json.dumps(value)
        claimed = self._mine(trial_id)
        if claimed is None or not self.held.take(trial_id, key, text):
            self._store_alone(SYSTEM_ATTRS, trial_id, {"key": key}, {"value_json": text})
        if claimed is not None:
            claimed.system_attrs[key] = json.loads(text)

    def _write_held(self) -> None:
        with self._writing():
            pass  # which is what writes them

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """As in Optuna."""
        if not self._lean:
            super().set_trial_intermediate_value(trial_id, step, intermediate_value)
            return
        model = models.TrialIntermediateValueModel
        stored, kind = model.intermediate_value_to_stored_repr(intermediate_value)
        content = {"intermediate_value": stored, "intermediate_value_type": kind}
        self._store_alone(INTERMEDIATES, trial_id, {"step": step}, content)
        if (claimed := self._mine(trial_id)) is not None:
            claimed.intermediate_values[step] = intermediate_value

    def forget_claimed(self) -> None:
        """Read the claimed trial anew from now on: another process has written to it."""
        self._claimed = None

    def _mine(self, trial_id: int) -> FrozenTrial | None:
        claimed = self._claimed
        return claimed if claimed is not None and claimed._trial_id == trial_id else None

    def _store_alone(
        self, table: Table, trial_id: int, place: dict[str, Any], content: dict[str, Any]
    ) -> None:
        with self._writing() as connection:
            self._store(connection, table, trial_id, place, content, unfinished=True)

    def _store(
        self,
        connection: Connection,
        table: Table,
        trial_id: int,
        place: dict[str, Any],
        content: dict[str, Any],
        *,
        unfinished: bool = False,
    ) -> None:
        """Insert a row of a trial, or update it; `unfinished`: unless the trial is finished."""
        insert: Any
        if self.engine.dialect.name == "sqlite":
            keys = ["trial_id", *place]
            insert = sqlite.insert(table).on_conflict_do_update(index_elements=keys, set_=content)
        else:
            insert = mysql.insert(table).on_duplicate_key_update(content)
        row = {**place, **content}
        if not unfinished:
            connection.execute(insert.values(trial_id=trial_id, **row))
        elif connection.execute(of_unfinished(insert, table, trial_id, row)).rowcount == 0:
            self._check_unfinished(connection, trial_id)

    def _check_unfinished(self, connection: Connection, trial_id: int) -> None:
        self._claimed = None
        asked = select(TRIALS.c.state).where(TRIALS.c.trial_id == trial_id)
        state = connection.execute(asked).scalar_one_or_none()
        if state is None:
            raise KeyError(models.NOT_FOUND_MSG)
        self.check_trial_is_updatable(trial_id, state)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Connection]:
        with optuna_errors(), self.engine.connect() as connection:
            yield connection.execution_options(**{READS: True})

    @contextlib.contextmanager
    def _writing(self) -> Iterator[Connection]:
        self._read_at.clear()
        with (
            self.held.handed_out() as held,
            optuna_errors(),
            self.engine.begin() as connection,
        ):
            for trial_id, key, text in held:
                row: Any = {"key": key}, {"value_json": text}
                self._store(connection, SYSTEM_ATTRS, trial_id, *row, unfinished=True)
            yield connection


def _stored_distribution(
    connection: Connection, trial_id: int, name: str
) -> BaseDistribution | None:
    """The distribution that a parameter of the study has in any trial."""
    mine = TRIALS.alias()
    study = select(mine.c.study_id).where(mine.c.trial_id == trial_id).scalar_subquery()
    joined = PARAMS.join(TRIALS, PARAMS.c.trial_id == TRIALS.c.trial_id)
    asked = select(PARAMS.c.distribution_json).select_from(joined)
    asked = asked.where(TRIALS.c.study_id == study, PARAMS.c.param_name == name).limit(1)
    text = connection.execute(asked).scalar_one_or_none()
    return None if text is None else distribution_of(text)
