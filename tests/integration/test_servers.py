"""The servers that other tests rely on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql
import pytest
from sqlalchemy.engine import make_url

from tests import servers
from tests.servers import FLAVORS, DatabaseServer, ServerFailed, ServerNotFound


def run_sql(url: str, *statements: str, database: str | None = None) -> list[tuple[Any, ...]]:
    parts = make_url(url)
    connection = pymysql.connect(
        host=parts.host or "",
        port=parts.port or 0,
        user=parts.username,
        password=parts.password or "",
        database=database or parts.database,
        autocommit=True,
    )
    with connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
        return list(cursor.fetchall())


@pytest.fixture(params=FLAVORS)
def own_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DatabaseServer]:
    """A server that the test may kill."""
    start = getattr(servers, f"start_{request.param}")
    server: DatabaseServer = start(tmp_path / "server", options=["--max-connections=37"])
    yield server
    server.stop()


def test_flavor_is_what_the_server_says(database_server: DatabaseServer) -> None:
    [(version, comment)] = database_server.admin_sql("SELECT VERSION(), @@version_comment")
    assert ("MariaDB" in version + comment) == (database_server.flavor == "mariadb")


def test_database_is_fresh_case_sensitive_and_for_its_account_alone(
    database_server: DatabaseServer,
) -> None:
    first, second = database_server.create_database(), database_server.create_database()
    rows = run_sql(
        first,
        "CREATE TABLE t (name VARCHAR(20) PRIMARY KEY)",
        "INSERT INTO t VALUES ('a'), ('A')",
        "SELECT name FROM t ORDER BY name",
    )
    assert rows == [("A",), ("a",)]
    assert run_sql(second, "SHOW TABLES") == []
    with pytest.raises(pymysql.OperationalError, match="Access denied"):
        run_sql(second, "SHOW TABLES", database=make_url(first).database)


def test_root_has_no_way_in_over_the_network(database_server: DatabaseServer) -> None:
    with pytest.raises(pymysql.OperationalError):
        pymysql.connect(host="127.0.0.1", port=database_server.port, user="root")


def test_data_and_port_outlive_a_kill(own_server: DatabaseServer) -> None:
    url, pid = own_server.create_database(), own_server.pid
    run_sql(url, "CREATE TABLE t (x INT)", "INSERT INTO t VALUES (7)")
    own_server.kill()
    with pytest.raises(pymysql.OperationalError):
        run_sql(url, "SELECT 1")
    own_server.restart()
    assert own_server.pid != pid
    assert run_sql(url, "SELECT x FROM t") == [(7,)]


def test_options_reach_the_server_and_stop_ends_it(own_server: DatabaseServer) -> None:
    assert own_server.admin_sql("SELECT @@max_connections") == [(37,)]
    own_server.stop()
    own_server.stop()
    with pytest.raises(ProcessLookupError):
        os.kill(own_server.pid, 0)


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(ServerFailed, match="no-such-option"):
        servers.start_mariadb(tmp_path, options=["--no-such-option"])


def test_no_server_and_no_way_to_get_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path=None: None)
    monkeypatch.setenv("OPTUNA_SPARK_TEST_CACHE", str(tmp_path))
    with pytest.raises(ServerNotFound, match="install mysql-server"):
        servers.find_server("mysql")
    assert servers.main() == 1
