"""Fixtures of the fault table: one cluster for all rows, and a fresh study for each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.register_assert_rewrite("tests.faults.harness")  # before its import: it judges

from tests.cluster import StandaloneCluster  # noqa: E402
from tests.faults.harness import Row  # noqa: E402
from tests.faults.warm import WarmDriver  # noqa: E402
from tests.servers import DatabaseServer  # noqa: E402

NewRow = Callable[..., Row]


@pytest.fixture(scope="session")
def shared_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandaloneCluster]:
    """Two Workers with room for the executors of three drivers."""
    folder = tmp_path_factory.mktemp("cluster")
    size: dict[str, Any] = {"cores": 16, "memory": "8g"}
    with StandaloneCluster(folder, **size, own_hosts=True) as started:
        yield started


@pytest.fixture
def cluster(shared_cluster: StandaloneCluster) -> StandaloneCluster:
    """The shared cluster, with two Workers whatever the row before did to it."""
    shared_cluster.restore()
    return shared_cluster


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[Row], WarmDriver]]:
    """Finds a driver with eight slots; another one when the last was killed."""
    started: list[WarmDriver] = []

    def find(row: Row) -> WarmDriver:
        if not started or not started[-1].is_free():
            folder = tmp_path_factory.mktemp("warm")
            env = row.environment(slots=8, folder=folder)
            started.append(WarmDriver(folder, env))
        return started[-1]

    yield find
    for driver in started:
        driver.end()


@pytest.fixture
def new_row(
    tmp_path: Path, cluster: StandaloneCluster, warm: Callable[[Row], WarmDriver]
) -> Iterator[NewRow]:
    """Makes the row of a test, on any server, and ends what it started."""
    made: list[Row] = []

    def make(server: DatabaseServer, url: str | None = None) -> Row:
        made.append(Row(tmp_path, cluster, server, url or server.create_database(), warm))
        return made[-1]

    yield make
    for row in made:
        row.end()
        for driver in row.drivers:
            print(driver.output)  # pytest shows it where the row failed


@pytest.fixture
def row(new_row: NewRow, mysql_server: DatabaseServer) -> Row:
    """The row of a test whose database is MySQL."""
    return new_row(mysql_server)


@pytest.fixture
def any_row(new_row: NewRow, database_server: DatabaseServer) -> Row:
    """The row of a test that runs on each kind of server in turn."""
    return new_row(database_server)
