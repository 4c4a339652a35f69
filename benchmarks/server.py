"""What the database server counts, and studies that are long finished."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from optuna.distributions import FloatDistribution, distribution_to_json

from tests.servers import DatabaseServer

COUNTERS = (
    "Questions",
    "Com_begin",
    "Com_commit",
    "Com_rollback",
    "Com_select",
    "Com_insert",
    "Com_update",
    "Com_set_option",
)
_BATCH = 1000  # rows of one INSERT


class Counters:
    """The server's counters, less what asking for them adds.

    Args:
        server: A server on which nothing else runs.
    """

    def __init__(self, server: DatabaseServer) -> None:
        self._server = server
        first, second = self._read(), self._read()
        self._own = {name: second[name] - first[name] for name in COUNTERS}
        self._asked = 0

    def read(self) -> dict[str, float]:
        """Return the counters as if nobody had asked for them."""
        self._asked += 1
        now = self._read()
        return {name: now[name] - self._asked * self._own[name] for name in COUNTERS}

    def _read(self) -> dict[str, float]:
        rows = self._server.admin_sql("SHOW GLOBAL STATUS")
        return {name: float(value) for name, value in rows if name in COUNTERS}


def each(
    before: Mapping[str, float], after: Mapping[str, float], trials: float
) -> dict[str, float]:
    """Say how often the server counted what, for each trial.

    Example:
        >>> each({"Questions": 10.0}, {"Questions": 30.0}, 4)
        {'Questions': 5.0}
    """
    return {name: (after[name] - before[name]) / trials for name in after}


def forget_peak(server: DatabaseServer) -> None:
    """Count the highest number of connections anew."""
    server.admin_sql("FLUSH STATUS")


def peak_connections(server: DatabaseServer) -> int:
    """Return the highest number of connections since then, less the one that asks."""
    return int(server.admin_sql("SHOW GLOBAL STATUS LIKE 'Max_used_connections'")[0][1]) - 1


def complete_trials(server: DatabaseServer, url: str, study: str) -> tuple[int, int]:
    """Return how many trials of a study are COMPLETE, and how many are in any other state."""
    rows = server.admin_sql(
        f"SELECT SUM(state = 'COMPLETE'), SUM(state <> 'COMPLETE') FROM {_database(url)}.trials"
        f" JOIN {_database(url)}.studies USING (study_id) WHERE study_name = '{study}'"
    )
    complete, others = rows[0]
    return int(complete or 0), int(others or 0)


def best_value(server: DatabaseServer, url: str, study: str) -> float:
    """Return the lowest value of a study."""
    rows = server.admin_sql(
        f"SELECT MIN(value) FROM {_database(url)}.trial_values"
        f" JOIN {_database(url)}.trials USING (trial_id)"
        f" JOIN {_database(url)}.studies USING (study_id) WHERE study_name = '{study}'"
    )
    return float(rows[0][0])


def add_finished_trials(server: DatabaseServer, url: str, study: str, count: int) -> None:
    """Put trials of two parameters into a study of Optuna's that has none, as if they had run."""
    use = f"USE {_database(url)};"
    rows = server.admin_sql(f"{use} SELECT study_id FROM studies WHERE study_name = '{study}'")
    study_id = rows[0][0]
    for start in range(0, count, _BATCH):
        numbers = range(start, min(count, start + _BATCH))
        trials = ",".join(f"({number},{study_id},'COMPLETE',NOW(),NOW())" for number in numbers)
        server.admin_sql(
            f"{use} INSERT INTO trials (number, study_id, state, datetime_start,"
            f" datetime_complete) VALUES {trials}"
        )
    mine = f"FROM trials WHERE study_id = {study_id}"
    space = distribution_to_json(FloatDistribution(-10, 10))
    params = "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json)"
    values = "INSERT INTO trial_values (trial_id, objective, value, value_type)"
    server.admin_sql(
        f"{use} {params} SELECT trial_id, 'x0', 20 * RAND() - 10, '{space}' {mine};"
        f"{params} SELECT trial_id, 'x1', 20 * RAND() - 10, '{space}' {mine};"
        f"{values} SELECT trial_id, 0, 200 * RAND(), 'FINITE' {mine}"
    )


def _database(url: str) -> str:
    return urlsplit(url).path.lstrip("/")
