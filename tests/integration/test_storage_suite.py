"""Optuna's own test suite of storages, on the storage that drivers and executors use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy
from optuna.storages import BaseStorage
from optuna.testing.pytest_storages import StorageTestCase

from optuna_spark.addresses import find_address
from optuna_spark.storage import close_storage, open_storage


class TestStorage(StorageTestCase):  # type: ignore[misc]
    @pytest.fixture(
        params=["mysql_url", "mariadb_url", "sqlite_url", "tables unknown", "an executor's"]
    )
    def storage(
        self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[BaseStorage]:
        name = request.param
        executors = name == "an executor's"
        if name == "tables unknown":
            monkeypatch.setattr("optuna_spark.lean_storage.knows_schema", lambda: False)
            name = "sqlite_url"
        address = find_address(request.getfixturevalue("mysql_url" if executors else name))
        storage = open_storage(address, create_schema=True)
        if executors:
            close_storage(storage)
            storage = open_storage(address, create_schema=False)
        if name != "sqlite_url":
            # Optuna's tables keep whole seconds there, and its suite compares microseconds.
            with storage._backend.engine.begin() as connection:  # type: ignore[attr-defined]
                for name in ("datetime_start", "datetime_complete"):
                    modify = f"ALTER TABLE trials MODIFY {name} DATETIME(6)"
                    connection.execute(sqlalchemy.text(modify))
        yield storage
        close_storage(storage)
