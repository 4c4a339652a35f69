"""Faults of the database: it goes away, cuts connections, refuses them, or makes callers wait."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pymysql
import pytest
from sqlalchemy.engine import make_url

from tests.faults.conftest import NewRow
from tests.faults.harness import LONG, PATIENCE, Row, after
from tests.faults.proxy import LosesAnswers
from tests.fixtures_spark import eventually
from tests.servers import DatabaseServer

AGAIN = (5, 15, 25)  # trials that are COMPLETE when a fault strikes, and strikes again


@pytest.fixture
def with_setting(mysql_server: DatabaseServer) -> Iterator[Callable[[str, int], None]]:
    """Changes global settings of MySQL, and changes them back."""
    before: dict[str, int] = {}

    def change(name: str, value: int) -> None:
        before.setdefault(name, int(admin_sql(mysql_server, f"SELECT @@GLOBAL.{name}")[0][0]))
        admin_sql(mysql_server, f"SET GLOBAL {name} = {value}")

    yield change
    for name, value in before.items():
        admin_sql(mysql_server, f"SET GLOBAL {name} = {value}")


def admin_sql(server: DatabaseServer, sql: str) -> list[tuple[Any, ...]]:
    """Ask as root, once there is a connection for it."""

    def ask() -> tuple[list[tuple[Any, ...]]] | None:
        with contextlib.suppress(pymysql.OperationalError):
            return (server.admin_sql(sql),)
        return None

    [rows] = eventually(ask) or ([],)
    return rows


def test_the_database_is_restarted(any_row: Row) -> None:
    any_row.optimize()
    any_row.when_complete(5)
    any_row.server.restart()
    any_row.when_complete(20)
    any_row.server.restart()
    any_row.judge()


def test_the_database_is_killed_and_comes_back(row: Row) -> None:
    row.optimize()
    row.when_complete(10)
    row.server.kill()
    try:
        after(60 if LONG else 5)
    finally:
        row.server.restart()
    row.judge()
    assert set(row.attempts().values()) == {1}, "a trial ran again"


def test_every_connection_is_dropped(any_row: Row) -> None:
    held = any_row.holding(*AGAIN, 35)
    any_row.optimize()
    dropped = sum(eventually(lambda: drop_connections(any_row)) for _ in held)
    any_row.judge()
    assert dropped > 4


def drop_connections(row: Row) -> int:
    """Kill all connections of the study's account, and say how many there were."""
    account = f"SELECT id FROM information_schema.processlist WHERE user = '{row.database}'"
    ids = [number for (number,) in row.server.admin_sql(account)]
    for number in ids:
        with contextlib.suppress(pymysql.Error):  # it has ended meanwhile
            row.server.admin_sql(f"KILL {number}")
    return len(ids)


def test_connections_time_out_during_trials(
    row: Row, with_setting: Callable[[str, int], None]
) -> None:
    with_setting("wait_timeout", 1)
    row.settle(seconds=2.2)
    row.optimize(n_jobs=8)
    row.judge()


def test_fewer_connections_than_slots(row: Row, with_setting: Callable[[str, int], None]) -> None:
    with_setting("max_connections", 6)
    before = refused_connections(row)
    row.optimize(n_jobs=8)
    row.when_complete(5)
    with contextlib.ExitStack() as held:
        for _ in range(3):
            held.enter_context(own_transaction(row))
        row.when_complete(20)
    row.judge()
    assert refused_connections(row) > before


def refused_connections(row: Row) -> int:
    return status(row, "Connection_errors_max_connections")


def test_others_hold_locks(row: Row, with_setting: Callable[[str, int], None]) -> None:
    with_setting("innodb_lock_wait_timeout", 1)
    before = metric(row, "lock_timeouts")
    row.optimize()
    for complete in AGAIN:
        row.when_complete(complete)
        with own_transaction(row) as execute:
            execute("SELECT * FROM studies FOR UPDATE")
            execute("SELECT * FROM trials FOR UPDATE")
            after(2)
    row.judge()
    assert metric(row, "lock_timeouts") > before, "nobody waited for a lock in vain"


def test_deadlocks(row: Row) -> None:
    row.settle(seconds=3.5)  # so that a job carries one trial, and the driver goes on creating
    row.optimize(n_jobs=8)
    row.when_complete(2)
    # InnoDB gives up the transaction that has changed less: it must not be ours.
    row.server.admin_sql(f"CREATE TABLE {row.database}.ballast (number INT PRIMARY KEY)")
    before = metric(row, "lock_deadlocks")
    for _ in range(3):
        with own_transaction(row) as execute:
            execute("INSERT INTO ballast VALUES " + ", ".join(f"({i})" for i in range(200)))
            # Who creates a trial holds the study's row, and waits for the gap behind the last
            # trial.
            execute("SELECT * FROM trials WHERE trial_id > 1000000 FOR UPDATE")
            eventually(lambda: lock_waits(row), PATIENCE)
            execute("SELECT * FROM studies FOR UPDATE")
    row.judge()
    assert metric(row, "lock_deadlocks") >= before + 3


@contextlib.contextmanager
def own_transaction(row: Row) -> Iterator[Callable[[str], Any]]:
    """A transaction of somebody else in the study's database, rolled back at the end."""
    url = make_url(row.url)

    def connect() -> Any:
        with contextlib.suppress(pymysql.OperationalError):  # there may be none left just now
            return pymysql.connect(
                host="127.0.0.1",
                port=row.server.port,
                user=str(url.username),
                password=str(url.password),
                database=row.database,
            )

    connection = eventually(connect)
    with connection, connection.cursor() as cursor:
        connection.begin()
        yield cursor.execute
        connection.rollback()


def lock_waits(row: Row) -> int:
    # Not from innodb_trx, which stays as it is while it is read ten times a second.
    return status(row, "Innodb_row_lock_current_waits")


def status(row: Row, name: str) -> int:
    return int(admin_sql(row.server, f"SHOW GLOBAL STATUS LIKE '{name}'")[0][1])


def metric(row: Row, name: str) -> int:
    counted = f"SELECT count FROM information_schema.innodb_metrics WHERE name = '{name}'"
    return int(row.server.admin_sql(counted)[0][0])


def test_answers_to_commits_are_lost(new_row: NewRow, mariadb_server: DatabaseServer) -> None:
    url = make_url(mariadb_server.create_database())
    with LosesAnswers(mariadb_server.port, every=9) as proxy:
        through = url.set(drivername="mysql+pymysql", port=proxy.port)
        row = new_row(mariadb_server, through.render_as_string(hide_password=False))
        row.optimize()
        row.judge()
    assert proxy.lost >= 5
