"""Trials as rows of Optuna's schema: the tables, one query for all of them, and back to trials."""

from __future__ import annotations

import functools
import json
import operator
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

from optuna_spark.lazy_trial import Rest

STUDIES: Table = models.StudyModel.__table__
TRIALS: Table = models.TrialModel.__table__
PARAMS: Table = models.TrialParamModel.__table__
VALUES: Table = models.TrialValueModel.__table__
USER_ATTRS: Table = models.TrialUserAttributeModel.__table__
SYSTEM_ATTRS: Table = models.TrialSystemAttributeModel.__table__
INTERMEDIATES: Table = models.TrialIntermediateValueModel.__table__

UNFINISHED = (TrialState.RUNNING, TrialState.WAITING)
FINISHED = tuple(state for state in TrialState if state not in UNFINISHED)

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
_place = operator.itemgetter(2)
_Value: Any = models.TrialValueModel
_Intermediate: Any = models.TrialIntermediateValueModel


def knows_schema() -> bool:
    """Whether the installed Optuna's schema is the one that this module was written for."""
    return all(
        {column.name for column in table.columns} == set(names.split())
        for table, names in _COLUMNS.items()
    )


def _query(*conditions: ColumnElement[bool], many: bool = True) -> sqlalchemy.CompoundSelect[Any]:
    """All rows of the trials that meet the conditions, as one statement.

    Of many trials, those alone that are in the states `whole` have more than their own row, and
    system attributes named `unread` are left out.
    """
    text, double, time = sqlalchemy.String(), sqlalchemy.Float(), sqlalchemy.DateTime()
    # Conditions may name hundreds of trials: each is sent once, and looked for once.
    found = select(TRIALS).where(*conditions).cte("found")
    whole = found.c.state.in_(bindparam("whole", expanding=True, type_=TRIALS.c.state.type))
    read = SYSTEM_ATTRS.c.key.not_in(bindparam("unread", expanding=True, type_=text))

    def rows(kind: int, place: Any, name: Any, content: Any, amount: Any) -> Any:
        began, ended = (
            (found.c.datetime_start, found.c.datetime_complete)
            if kind == _TRIAL
            else (null(), null())
        )
        return select(
            sqlalchemy.literal_column(str(kind), sqlalchemy.Integer()).label("kind"),
            found.c.trial_id.label("trial_id"),
            place.label("place"),
            type_coerce(name, text).label("name"),
            type_coerce(content, text).label("content"),
            type_coerce(amount, double).label("amount"),
            type_coerce(began, time).label("began"),
            type_coerce(ended, time).label("ended"),
        )

    def parts(kind: int, table: Table, *columns: Any) -> Any:
        joined = found.join(table, table.c.trial_id == found.c.trial_id)
        conditions = (whole, read) if table is SYSTEM_ATTRS else (whole,)
        return rows(kind, *columns).select_from(joined).where(*(conditions if many else ()))

    param, user, system = PARAMS.c, USER_ATTRS.c, SYSTEM_ATTRS.c
    value, step = VALUES.c, INTERMEDIATES.c
    distribution, none = param.distribution_json, literal(0)
    kinds, intermediate = step.intermediate_value_type, step.intermediate_value
    return sqlalchemy.union_all(
        rows(_TRIAL, found.c.number, null(), found.c.state, null()),
        parts(_PARAM, PARAMS, param.param_id, param.param_name, distribution, param.param_value),
        parts(_VALUE, VALUES, value.objective, null(), value.value_type, value.value),
        parts(_USER_ATTR, USER_ATTRS, none, user.key, user.value_json, null()),
        parts(_SYSTEM_ATTR, SYSTEM_ATTRS, none, system.key, system.value_json, null()),
        parts(_INTERMEDIATE, INTERMEDIATES, step.step, null(), kinds, intermediate),
    )


_NEWER = TRIALS.c.trial_id > bindparam("newer", type_=sqlalchemy.Integer())
_THESE = TRIALS.c.trial_id.in_(bindparam("these", expanding=True, type_=sqlalchemy.Integer()))
_OF_STUDY = TRIALS.c.study_id == bindparam("study_id", type_=sqlalchemy.Integer())

# Parameters: trial_id; study_id and newer (a trial's id); and these (ids of trials).
ONE_TRIAL = _query(
    TRIALS.c.trial_id == bindparam("trial_id", type_=sqlalchemy.Integer()), many=False
)
THESE_TRIALS = _query(_THESE)
NEWER_TRIALS = _query(_OF_STUDY, _NEWER)
NEWER_OR_THESE = _query(_OF_STUDY, sqlalchemy.or_(_THESE, _NEWER))


def trials_of(rows: Iterable[Any], rest: Rest | None = None) -> list[FrozenTrial]:
    """Make trials of what the queries of this module return, in the order of their ids.

    Args:
        rows: What a query returned.
        rest: Where unfinished trials were not read whole.
    """
    trials: dict[int, FrozenTrial] = {}
    parts: list[Any] = []
    for row in rows:
        kind, trial_id, number, _, content, _, began, ended = row
        if kind != _TRIAL:
            parts.append(row)
            continue
        state = TrialState[content]
        if rest is not None and state in UNFINISHED:
            trials[trial_id] = rest.trial(number, state, trial_id)
            continue
        trials[trial_id] = FrozenTrial(
            number=number,
            state=state,
            value=None,
            datetime_start=_read_time(began),
            datetime_complete=_read_time(ended),
            params={},
            distributions={},
            user_attrs={},
            system_attrs={},
            intermediate_values={},
            trial_id=trial_id,
        )
    # Parameters have the order in which they were suggested, values that of the objectives.
    parts.sort(key=_place)
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


@functools.lru_cache(maxsize=4096)
def _read_time(time: datetime | None) -> datetime | None:
    if time is None or not _IN_UTC:
        return time
    return time.replace(tzinfo=timezone.utc).astimezone().replace(tzinfo=None)
