"""Open a study's storage, on the driver and on executors, and translate its errors."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, RDBStorage
from sqlalchemy.engine import URL, make_url

from optuna_spark.addresses import installed_driver
from optuna_spark.exceptions import (
    DatabaseNotFound,
    SchemaVersionMismatch,
    StorageAccessDenied,
    StorageDriverMissing,
    StorageError,
    StorageNotShared,
    StorageUnreachable,
    StorageUrlError,
)
from optuna_spark.settings import (
    StorageAddress,
    storage_grace,
)

_logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10  # seconds; a firewall that drops packets must not look like a hang

_BEGIN = "BEGIN IMMEDIATE"
_TLS_ERROR = 2026  # the client's number for: the server speaks no TLS
_warned: set[str] = set()  # storages that the user was told of

# Error numbers of MySQL and MariaDB, what they are to us, and what the user is told.
_SENTENCES: tuple[tuple[tuple[int, ...], type[StorageError], str], ...] = (
    (
        (2002, 2003, 2005, 2006, 2013),
        StorageUnreachable,
        "No MySQL server can be reached at {where} ({reason}): start it, or correct host and "
        "port.",
    ),
    (
        (1040, 1203, 1226),
        StorageUnreachable,
        "The server at {where} takes no more connections ({reason}): raise its limit, or lower "
        "`n_jobs`.",
    ),
    (
        (1129, 1130),
        StorageAccessDenied,
        "The server at {where} refuses this host ({reason}): make an account for it, as "
        "deploy/mysql/setup.sh does.",
    ),
    (
        (1045, 1698),
        StorageAccessDenied,
        "The server at {where} refuses the user {user!r}: correct the password (MYSQL_PWD, or an "
        "option file), or the account; an account that requires TLS is refused in the same words.",
    ),
    (
        (1820, 1862, 3118, 4151),
        StorageAccessDenied,
        "The server at {where} does not let the user {user!r} in ({reason}): unlock the account, "
        "or give it a new password.",
    ),
    (
        (1524,),
        StorageAccessDenied,
        "The account {user!r} uses a login that the server no longer has: give it another with "
        "ALTER USER ... IDENTIFIED WITH caching_sha2_password.",
    ),
    (
        (1044,),
        StorageAccessDenied,
        "The user {user!r} has no rights on the database {database!r}, if that exists: correct "
        "the name, or create it and grant them, as deploy/mysql/setup.sh does.",
    ),
    (
        (1142, 1143, 1227, 1370),
        StorageAccessDenied,
        "The user {user!r} lacks a right on the database {database!r} ({reason}): grant it, as "
        "deploy/mysql/setup.sh does.",
    ),
    (
        (1290, 1792, 1836),
        StorageAccessDenied,
        "The server at {where} takes no writes ({reason}): name the one that does.",
    ),
    (
        (1049,),
        DatabaseNotFound,
        "The server at {where} has no database {database!r}: create it, as deploy/mysql/setup.sh "
        "does, or correct the name.",
    ),
)


def open_storage(address: StorageAddress | BaseStorage, *, create_schema: bool) -> BaseStorage:
    """Connect to a storage.

    Args:
        address: From `find_address`.
        create_schema: Make the tables where they are missing, and check their version. True on
            the driver only: executors racing to create one schema is a known source of failures.

    Raises:
        StorageError: or one of its kinds, each with the remedy.
    """
    if isinstance(address, BaseStorage):
        return address
    with translated_errors(address):
        try:
            storage = _rdb_storage(address, create_schema)
        except Exception as error:
            if not (create_schema and _error_code(error) == 1050):
                raise
            # Another process made the same tables at the same moment.
            storage = _rdb_storage(address, create_schema)
        if create_schema:
            _warn_of_collation(address, storage)
        return optuna.storages.get_storage(storage)


def close_storage(storage: BaseStorage) -> None:
    """Give the storage's connections back to the database."""
    backend = getattr(storage, "_backend", storage)
    if isinstance(backend, RDBStorage):
        backend.remove_session()
        backend.engine.dispose()


@contextlib.contextmanager
def translated_errors(address: StorageAddress | BaseStorage) -> Iterator[None]:
    """Turn SQLAlchemy's, the driver's and Optuna's errors into ours, one sentence each."""
    if not isinstance(address, StorageAddress):
        yield
        return
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise _translate(address, error) from error
    except ImportError as error:
        raise StorageDriverMissing(
            f"The Python package for {address} is not installed ({error.__cause__ or error}): "
            "install it in this environment."
        ) from error
    except RuntimeError as error:
        if "table schema" in str(error):
            raise SchemaVersionMismatch(
                f"The tables in {address} were made by another version of Optuna than "
                f"{optuna.__version__}: run `optuna storage upgrade --storage URL`, or install "
                "the version that made them."
            ) from error
        if "cryptography" in str(error):
            raise StorageDriverMissing(
                f"{address} asks for a login that PyMySQL cannot do alone: "
                "`pip install 'PyMySQL[rsa]'`, or use mysqlclient."
            ) from error
        raise


def _rdb_storage(address: StorageAddress, create_schema: bool) -> RDBStorage:
    options: dict[str, Any] = {
        # Optuna sets this for URLs that begin with "mysql" alone.
        "pool_pre_ping": True,
        **dict(address.engine_options),
    }
    url = make_url(address.url)
    if not create_schema:
        url = installed_driver(url)
    name = url.get_backend_name()
    arguments = dict(options.get("connect_args", {}))
    if name == "sqlite":
        arguments.setdefault("timeout", storage_grace())
        arguments["isolation_level"] = None  # this module begins transactions, see below
        if not create_schema and not Path(url.database or "").exists():
            raise StorageNotShared(
                f"{address} is a file of the driver's host, and is not on this executor's: use a "
                "MySQL or MariaDB server, which deploy/mysql/setup.sh sets up."
            )
    elif name in ("mysql", "mariadb"):
        arguments.setdefault("connect_timeout", CONNECT_TIMEOUT)
        # Optuna needs no snapshot across statements, and gap locks make deadlocks.
        options.setdefault("isolation_level", "READ COMMITTED")
        if not create_schema:
            options.update(pool_size=1, max_overflow=1)
        if url.get_driver_name() == "mysqldb" and not any("ssl" in key for key in url.query):
            options.setdefault("creator", functools.partial(_connect, url, arguments))
        if url.get_driver_name() == "pymysql" and url.password:
            # PyMySQL would encode it as Latin-1, every other client sends UTF-8.
            arguments.setdefault("password", str(url.password).encode())
    if arguments:
        options["connect_args"] = arguments
    storage = RDBStorage(
        # Optuna runs the URL through str.format.
        url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}"),
        engine_kwargs=options,
        skip_compatibility_check=not create_schema,
        skip_table_creation=not create_schema,
    )
    if name == "sqlite":
        # SQLite ignores FOR UPDATE, with which Optuna lets one claimer alone have a trial: there,
        # a transaction must have the file to itself from its first statement on.
        sqlalchemy.event.listen(
            storage.engine, "begin", lambda connection: connection.exec_driver_sql(_BEGIN)
        )
    return storage


def _connect(url: URL, arguments: dict[str, Any]) -> Any:
    """Connect through mysqlclient, encrypted where the server can.

    mysqlclient on MariaDB's library encrypts only when told to, and then refuses a server that
    cannot: https://github.com/PyMySQL/mysqlclient/pull/700.
    """
    dialect = url.get_dialect()()
    module: Any = dialect.import_dbapi()
    _, parameters = dialect.create_connect_args(url)
    parameters.update(arguments)
    try:
        return module.connect(**parameters, ssl_mode="REQUIRED")
    except module.OperationalError as error:
        if error.args[0] != _TLS_ERROR:
            raise
        return module.connect(**parameters)


def _warn_of_collation(address: StorageAddress, storage: RDBStorage) -> None:
    if storage.engine.dialect.name not in ("mysql", "mariadb"):
        return
    with storage.engine.connect() as connection:
        collation = connection.execute(
            sqlalchemy.text(
                "SELECT collation_name FROM information_schema.columns WHERE table_schema = "
                "DATABASE() AND table_name = 'trial_params' AND column_name = 'param_name'"
            )
        ).scalar()
    if collation and str(collation).endswith("_ci") and address.url not in _warned:
        _warned.add(address.url)
        _logger.warning(
            "%s compares names without case (%s), so parameters 'a' and 'A' would be one: "
            "use a database with a case-sensitive collation, as deploy/mysql/setup.sh makes, "
            "if an objective has such names.",
            address,
            collation,
        )


def _error_code(error: BaseException) -> int | None:
    """The server's or client's error number in a chain of exceptions, if there is one."""
    seen: BaseException | None = error
    while seen is not None:
        original = getattr(seen, "orig", None)
        if original is not None and original.args and isinstance(original.args[0], int):
            return int(original.args[0])
        seen = seen.__cause__
    return None


def _translate(address: StorageAddress, error: Exception) -> StorageError:
    url = make_url(address.url)
    if isinstance(error, sqlalchemy.exc.NoSuchModuleError):
        return StorageUrlError(
            f"{address} names a kind of database that SQLAlchemy does not know: "
            "write mysql://, mariadb:// or sqlite://."
        )
    if address.is_sqlite and "unable to open database file" in str(error):
        return StorageUnreachable(
            f"{address} cannot be opened: its folder does not exist or cannot be written."
        )
    code, reason = _error_code(error), _reason(error)
    for codes, kind, sentence in _SENTENCES:
        if code in codes and not address.is_sqlite:
            where = f"{url.host or 'localhost'}:{url.port or 3306}"
            facts = {"user": url.username, "database": url.database, "reason": reason}
            return kind(sentence.format(where=where, **facts))
    return StorageError(
        f"The storage {address} cannot be used ({reason}): correct its URL, or the database."
    )


def _reason(error: BaseException) -> str:
    seen: BaseException | None = error
    while seen is not None:
        original = getattr(seen, "orig", None)
        if original is not None:
            error = original
            break
        seen = seen.__cause__
    text = str(error.args[-1] if error.args else error) or type(error).__name__
    return text.splitlines()[0].rstrip(".")
