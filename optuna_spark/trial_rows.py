"""Trials as rows of Optuna's schema: the tables, one query for all of them, and back to trials."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import Any

import sqlalchemy
from optuna.distributions import (
    BaseDistribution,
    distribution_to_json,
    json_to_distribution,
)

# Private; `knows_schema` says whether it is as expected here. Optuna 4.9 and 5.0 are.
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import ColumnElement, Table, bindparam, literal, null, select, type_coerce

STUDIES: Table = models.StudyModel.__table__
TRIALS: Table = models.TrialModel.__table__
PARAMS: Table = models.TrialParamModel.__table__
VALUES: Table = models.TrialValueModel.__table__
USER_ATTRS: Table = models.TrialUserAttributeModel.__table__
SYSTEM_ATTRS: Table = models.TrialSystemAttributeModel.__table__
INTERMEDIATES: Table = models.TrialIntermediateValueModel.__table__

UNFINISHED = (TrialState.RUNNING, TrialState.WAITING)

_COLUMNS = {
    TRIALS: "trial_id number study_id state datetime_start datetime_complete",
    PARAMS: "param_id trial_id param_name param_value distribution_json",
    VALUES: "trial_value_id trial_id objective value value_type",
    USER_ATTRS: "trial_user_attribute_id trial_id key value_json",
    SYSTEM_ATTRS: "trial_system_attribute_id trial_id key value_json",
    INTERMEDIATES: "trial_intermediate_value_id trial_id step intermediate_value "
    "intermediate_value_type",
}
# Optuna 5 stores times as naive UTC, Optuna 4 as naive local time.
_IN_UTC = hasattr(models.TrialModel, "_datetime_start_utc")

_TRIAL, _PARAM, _VALUE, _USER_ATTR, _SYSTEM_ATTR, _INTERMEDIATE = range(6)
_Value: Any = models.TrialValueModel
_Intermediate: Any = models.TrialIntermediateValueModel


def knows_schema() -> bool:
    """Whether the installed Optuna's schema is the one that this module was written for."""
    return all(
        {column.name for column in table.columns} == set(names.split())
        for table, names in _COLUMNS.items()
    )


def _query(*conditions: ColumnElement[bool]) -> sqlalchemy.CompoundSelect[Any]:
    """All rows of the trials that meet the conditions, as one statement."""
    text, double, time = sqlalchemy.String(), sqlalchemy.Float(), sqlalchemy.DateTime()

    def rows(kind: int, table: Table, place: Any, name: Any, content: Any, amount: Any) -> Any:
        trial = table is TRIALS
        columns = [
            sqlalchemy.literal_column(str(kind), sqlalchemy.Integer()).label("kind"),
            TRIALS.c.trial_id.label("trial_id"),
            place.label("place"),
            type_coerce(name, text).label("name"),
            type_coerce(content, text).label("content"),
            type_coerce(amount, double).label("amount"),
            type_coerce(TRIALS.c.datetime_start if trial else null(), time).label("began"),
            type_coerce(TRIALS.c.datetime_complete if trial else null(), time).label("ended"),
        ]
        source = TRIALS if trial else TRIALS.join(table, table.c.trial_id == TRIALS.c.trial_id)
        return select(*columns).select_from(source).where(*conditions)

    param, user, system = PARAMS.c, USER_ATTRS.c, SYSTEM_ATTRS.c
    value, step = VALUES.c, INTERMEDIATES.c
    return sqlalchemy.union_all(
        rows(_TRIAL, TRIALS, TRIALS.c.number, null(), TRIALS.c.state, null()),
        rows(
            _PARAM,
            PARAMS,
            param.param_id,
            param.param_name,
            param.distribution_json,
            param.param_value,
        ),
        rows(_VALUE, VALUES, value.objective, null(), value.value_type, value.value),
        rows(_USER_ATTR, USER_ATTRS, null(), user.key, user.value_json, null()),
        rows(_SYSTEM_ATTR, SYSTEM_ATTRS, null(), system.key, system.value_json, null()),
        rows(
            _INTERMEDIATE,
            INTERMEDIATES,
            step.step,
            null(),
            step.intermediate_value_type,
            step.intermediate_value,
        ),
    )


_NEWER = TRIALS.c.trial_id > bindparam("newer", type_=sqlalchemy.Integer())
_THESE = TRIALS.c.trial_id.in_(bindparam("these", expanding=True, type_=sqlalchemy.Integer()))
_OF_STUDY = TRIALS.c.study_id == bindparam("study_id", type_=sqlalchemy.Integer())

# Parameters: trial_id; study_id and newer (a trial's id); and these (ids of trials).
ONE_TRIAL = _query(TRIALS.c.trial_id == bindparam("trial_id", type_=sqlalchemy.Integer()))
NEWER_TRIALS = _query(_OF_STUDY, _NEWER)
NEWER_OR_THESE = _query(_OF_STUDY, sqlalchemy.or_(_THESE, _NEWER))


def trials_of(rows: Iterable[Any]) -> list[FrozenTrial]:
    """Make trials of what the queries of this module return, in the order of their ids."""
    trials: dict[int, FrozenTrial] = {}
    parts: list[Any] = []
    for row in rows:
        if row.kind == _TRIAL:
            trials[row.trial_id] = FrozenTrial(
                number=row.place,
                state=TrialState[row.content],
                value=None,
                datetime_start=_read_time(row.began),
                datetime_complete=_read_time(row.ended),
                params={},
                distributions={},
                user_attrs={},
                system_attrs={},
                intermediate_values={},
                trial_id=row.trial_id,
            )
        else:
            parts.append(row)
    # Parameters have the order in which they were suggested, values that of the objectives.
    parts.sort(key=lambda row: row.place or 0)
    values: dict[int, list[float]] = {}
    for kind, trial_id, place, name, content, amount, _, _ in parts:
        trial = trials[trial_id]
        if kind == _PARAM:
            distribution = distribution_of(content)
            trial.distributions[name] = distribution
            trial.params[name] = distribution.to_external_repr(amount)
        elif kind == _VALUE:
            value = _Value.stored_repr_to_value(amount, _Value.TrialValueType[content])
            values.setdefault(trial_id, []).append(value)
        elif kind == _USER_ATTR:
            trial.user_attrs[name] = json.loads(content)
        elif kind == _SYSTEM_ATTR:
            trial.system_attrs[name] = json.loads(content)
        else:
            to_value, types = (
                _Intermediate.stored_repr_to_intermediate_value,
                _Intermediate.TrialIntermediateValueType,
            )
            trial.intermediate_values[place] = to_value(amount, types[content])
    for trial_id, of_trial in values.items():
        trials[trial_id].values = of_trial
    return [trials[trial_id] for trial_id in sorted(trials)]


def copy_of(trial: FrozenTrial) -> FrozenTrial:
    """A trial whose holder may add to it."""
    return FrozenTrial(
        number=trial.number,
        state=trial.state,
        value=None,
        values=trial.values,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params=dict(trial.params),
        distributions=dict(trial.distributions),
        user_attrs=dict(trial.user_attrs),
        system_attrs=dict(trial.system_attrs),
        intermediate_values=dict(trial.intermediate_values),
        trial_id=trial._trial_id,
    )


def of_unfinished(insert: Any, table: Table, trial_id: int, row: Mapping[str, Any]) -> Any:
    """Insert a row of a trial if the trial is not finished."""
    unfinished = TRIALS.c.trial_id == trial_id, TRIALS.c.state.in_(UNFINISHED)
    values = [literal(value, table.c[name].type) for name, value in row.items()]
    source = select(TRIALS.c.trial_id, *values).where(*unfinished)
    return insert.from_select(["trial_id", *row], source, include_defaults=False)


@functools.lru_cache(maxsize=4096)
def distribution_of(text: str) -> BaseDistribution:
    """Read a distribution; the same text gives the same object, which nobody changes."""
    return json_to_distribution(text)


def distribution_text(distribution: BaseDistribution) -> str:
    """Write a distribution as Optuna does."""
    return distribution_to_json(distribution)


def stored_time(time: datetime) -> datetime:
    """A local time as the installed Optuna stores it."""
    return time.astimezone(timezone.utc).replace(tzinfo=None) if _IN_UTC else time


def _read_time(time: datetime | None) -> datetime | None:
    if time is None or not _IN_UTC:
        return time
    return time.replace(tzinfo=timezone.utc).astimezone().replace(tzinfo=None)
