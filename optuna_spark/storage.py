"""Open a study's storage, on the driver and on executors, and translate its errors.

This is the one module that knows SQLAlchemy.
"""

from __future__ import annotations

import configparser
import contextlib
import importlib.util
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from sqlalchemy.engine import URL, make_url

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
    DEFAULT_STORAGE,
    STORAGE_VARIABLE,
    StorageAddress,
    storage_grace,
)

_logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10  # seconds; a firewall that drops packets must not look like a hang

# (module to import, dialect of SQLAlchemy, package to install), the preferred one first.
_MYSQL_DRIVERS = (
    ("MySQLdb", "mysqldb", "mysqlclient"),
    ("pymysql", "pymysql", "PyMySQL"),
)
_BEGIN = "BEGIN IMMEDIATE"
_warned: set[str] = set()  # storages that the user was told of
_LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def find_address(storage: str | BaseStorage | None) -> StorageAddress | BaseStorage:
    """Say where a storage is, as a value that can be sent to executors.

    Args:
        storage: What `optuna.create_study` takes. None means `OPTUNA_STORAGE`, or an SQLite file
            in the working directory where that is unset.

    Returns:
        An address; or the storage itself where it is not a relational database.

    Raises:
        StorageUrlError: the URL cannot be read.
        StorageDriverMissing: no package that speaks to this database is installed.
        StorageNotShared: the storage lives in this process's memory.
    """
    if storage is None:
        storage = os.environ.get(STORAGE_VARIABLE) or DEFAULT_STORAGE
    if isinstance(storage, str):
        return _address_of_url(storage)
    backend = getattr(storage, "_backend", storage)  # Optuna wraps an RDBStorage in a cache
    if isinstance(backend, RDBStorage):
        return _address_of_url(backend.url, tuple(backend.engine_kwargs.items()))
    if isinstance(backend, InMemoryStorage):
        raise StorageNotShared(
            "The study is in this process's memory, where executors cannot reach it: "
            "give a database URL as `storage`."
        )
    return storage


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


def check_shared(address: StorageAddress | BaseStorage, remote_hosts: list[str]) -> None:
    """Refuse a storage that the given other hosts cannot reach.

    Raises:
        StorageNotShared: the database is a file of this host, or its address means "this host".
    """
    if not isinstance(address, StorageAddress) or not remote_hosts:
        return
    where = f"executors run on other hosts ({', '.join(sorted(remote_hosts)[:3])})"
    if address.is_sqlite:
        raise StorageNotShared(
            f"{address} is a file of this host, but {where}: use a MySQL or MariaDB server, "
            "which deploy/mysql/setup.sh sets up."
        )
    host = make_url(address.url).host
    if host in _LOCAL_NAMES:
        raise StorageNotShared(
            f"{address} names {host!r}, which on every executor is the executor itself, but "
            f"{where}: write the name of this host instead."
        )


@contextlib.contextmanager
def translated_errors(address: StorageAddress) -> Iterator[None]:
    """Turn SQLAlchemy's, the driver's and Optuna's errors into ours, one sentence each."""
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


def _address_of_url(text: str, options: tuple[tuple[str, object], ...] = ()) -> StorageAddress:
    try:
        url = make_url(text)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        # The text may hold a password: it is not repeated.
        raise StorageUrlError(
            "The storage URL cannot be read: write it as mysql://user@host:3306/database or "
            "sqlite:///file.db, with special characters in user and password %-escaped."
        ) from None
    if url.get_backend_name() in ("mysql", "mariadb"):
        url = _with_credentials(_with_driver(url))
        if not url.database:
            raise StorageUrlError(
                f"{_shown(url)} names no database: write mysql://user@host:3306/database."
            )
    elif url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise StorageNotShared(
            "An SQLite database in memory is in this process alone: give a file, as in "
            f"{DEFAULT_STORAGE}."
        )
    elif url.get_backend_name() == "sqlite" and not (url.database or "").startswith("file:"):
        # Executors have another working directory.
        url = url.set(database=str(Path(url.database or "").absolute()))
    return StorageAddress(
        url=url.render_as_string(hide_password=False), shown=_shown(url), engine_options=options
    )


def _shown(url: URL) -> str:
    # Some drivers take a password in the query too.
    secret = [key for key in url.query if "pass" in key.lower()]
    return url.update_query_dict(dict.fromkeys(secret, "***")).render_as_string(hide_password=True)


def _with_driver(url: URL) -> URL:
    if "+" in url.drivername:
        return url
    for module, dialect, _ in _MYSQL_DRIVERS:
        if importlib.util.find_spec(module):
            if module != _MYSQL_DRIVERS[0][0]:
                _logger.info("mysqlclient is not installed: %s is used instead.", module)
            return url.set(drivername=f"{url.drivername}+{dialect}")
    packages = " or ".join(package for _, _, package in _MYSQL_DRIVERS)
    raise StorageDriverMissing(
        f"No MySQL package for Python is installed: install {packages}, for example by "
        "`pip install 'optuna-spark[pymysql]'`."
    )


def _with_credentials(url: URL) -> URL:
    """Put what option files and the environment know into the URL: executors have neither."""
    named = url.query.get("read_default_file")
    path = Path(str(named) if named else "~/.my.cnf").expanduser()
    if named and not path.is_file():
        raise StorageUrlError(f"The option file {path} of the storage URL does not exist.")
    group = str(url.query.get("read_default_group", "client"))
    client = _read_option_file(path, group)
    url = url.difference_update_query(["read_default_file", "read_default_group"])
    if url.username in (None, client.get("user"), ""):
        url = url.set(username=client.get("user") or url.username)
        url = url.set(password=url.password or client.get("password"))
    elif named and "user" not in client:
        url = url.set(password=url.password or client.get("password"))
    if url.password is None:
        url = url.set(password=os.environ.get("MYSQL_PWD"))
    if not url.host and client.get("host"):
        url = url.set(host=client["host"])
    if url.port is None and client.get("port", "").isdigit():
        url = url.set(port=int(client["port"]))
    return url


def _read_option_file(path: Path, group: str) -> dict[str, str]:
    if not path.is_file():
        return {}
    parser = configparser.ConfigParser(
        allow_no_value=True, strict=False, interpolation=None, comment_prefixes=("#", ";")
    )
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        parser.read_string("\n".join(line for line in lines if not line.startswith("!")))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        # The parser's message may quote the line that holds the password.
        raise StorageUrlError(
            f"The option file {path} cannot be read ({type(error).__name__}): correct it."
        ) from None
    if not parser.has_section(group):
        return {}
    return {key: _unquoted(value or "") for key, value in parser.items(group)}


def _unquoted(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return value.replace("\\\\", "\\")


def _rdb_storage(address: StorageAddress, create_schema: bool) -> RDBStorage:
    options: dict[str, Any] = {
        # Optuna sets this for URLs that begin with "mysql" alone.
        "pool_pre_ping": True,
        **dict(address.engine_options),
    }
    name = make_url(address.url).get_backend_name()
    arguments = dict(options.get("connect_args", {}))
    if name == "sqlite":
        arguments.setdefault("timeout", storage_grace())
        arguments["isolation_level"] = None  # this module begins transactions, see below
    elif name in ("mysql", "mariadb"):
        arguments.setdefault("connect_timeout", CONNECT_TIMEOUT)
        # Optuna needs no snapshot across statements, and gap locks make deadlocks.
        options.setdefault("isolation_level", "READ COMMITTED")
        if not create_schema:
            options.update(pool_size=1, max_overflow=1)
    if arguments:
        options["connect_args"] = arguments
    storage = RDBStorage(
        # Optuna runs the URL through str.format.
        address.url.replace("{", "{{").replace("}", "}}"),
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
    code = _error_code(error)
    url = make_url(address.url)
    where = f"{url.host or 'localhost'}:{url.port or 3306}"
    if isinstance(error, sqlalchemy.exc.NoSuchModuleError):
        return StorageUrlError(
            f"{address} names a kind of database that SQLAlchemy does not know: "
            "write mysql://, mariadb:// or sqlite://."
        )
    if code in (2002, 2003, 2005, 2006, 2013, 1040, 1130):
        return StorageUnreachable(
            f"No MySQL server can be reached at {where} ({_reason(error)}): "
            "start it, or correct host and port."
        )
    if code in (1045, 1698):
        return StorageAccessDenied(
            f"The server at {where} refuses the user {url.username!r}: correct the password "
            "(MYSQL_PWD, or an option file), or the account; an account that requires TLS is "
            "refused in the same words."
        )
    if code == 1044:
        return StorageAccessDenied(
            f"The user {url.username!r} has no rights on the database {url.database!r}: "
            "grant them, as deploy/mysql/setup.sh does."
        )
    if code in (1142, 1143, 1227, 1290, 1370):
        return StorageAccessDenied(
            f"The user {url.username!r} lacks a right on the database {url.database!r} "
            f"({_reason(error)}): grant it, as deploy/mysql/setup.sh does."
        )
    if code == 1049:
        return DatabaseNotFound(
            f"The server at {where} has no database {url.database!r}: create it, "
            "as deploy/mysql/setup.sh does, or correct the name."
        )
    if code == 1524:
        return StorageAccessDenied(
            f"The account {url.username!r} uses a login that the server no longer has: "
            "give it another with ALTER USER ... IDENTIFIED WITH caching_sha2_password."
        )
    if address.is_sqlite and "unable to open database file" in str(error):
        return StorageUnreachable(
            f"{address} cannot be opened: its folder does not exist or cannot be written."
        )
    return StorageError(f"The storage {address} cannot be used: {_reason(error)}.")


def _reason(error: BaseException) -> str:
    seen: BaseException | None = error
    while seen is not None:
        original = getattr(seen, "orig", None)
        if original is not None:
            return str(original.args[-1] if original.args else original).splitlines()[0]
        seen = seen.__cause__
    return str(error).splitlines()[0]
