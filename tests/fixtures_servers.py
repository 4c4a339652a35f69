"""Fixtures for real database servers, each started once a session, and fresh databases on them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.servers import FLAVORS, DatabaseServer, start_mariadb, start_mysql


@pytest.fixture(scope="session")
def mysql_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseServer]:
    """A MySQL server that all tests of the session share."""
    server = start_mysql(tmp_path_factory.mktemp("mysql"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def mariadb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabaseServer]:
    """A MariaDB server that all tests of the session share."""
    server = start_mariadb(tmp_path_factory.mktemp("mariadb"))
    yield server
    server.stop()


@pytest.fixture(scope="session", params=FLAVORS)
def database_server(request: pytest.FixtureRequest) -> DatabaseServer:
    """Each of the shared servers in turn."""
    server: DatabaseServer = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture
def mysql_url(mysql_server: DatabaseServer) -> str:
    """The URL of a fresh database on MySQL."""
    return mysql_server.create_database()


@pytest.fixture
def mariadb_url(mariadb_server: DatabaseServer) -> str:
    """The URL of a fresh database on MariaDB."""
    return mariadb_server.create_database()


@pytest.fixture
def database_url(database_server: DatabaseServer) -> str:
    """The URL of a fresh database, on each of the shared servers in turn."""
    return database_server.create_database()
