"""Say where a study's storage is: read URLs, option files and the environment."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import re
from importlib import metadata
from pathlib import Path

import sqlalchemy
from optuna.storages import BaseStorage, InMemoryStorage, RDBStorage
from sqlalchemy.engine import URL, make_url

from optuna_spark.encryption import with_encryption
from optuna_spark.exceptions import StorageDriverMissing, StorageNotShared, StorageUrlError
from optuna_spark.settings import DEFAULT_STORAGE, STORAGE_VARIABLE, StorageAddress

_logger = logging.getLogger(__name__)

# (module to import, dialect of SQLAlchemy, package to install), the preferred one first.
_MYSQL_DRIVERS = (
    ("MySQLdb", "mysqldb", "mysqlclient"),
    ("pymysql", "pymysql", "PyMySQL"),
)
# Of an option file: what is before a comment, which a # outside quotes begins.
_BEFORE_COMMENT = re.compile(r"""(?:"(?:\\.?|[^"\\])*("|$)|'(?:\\.?|[^'\\])*('|$)|[^#"'])*""")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "s": " "}
_LOCAL_NAMES = frozenset({"localhost", "::1"})


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
        # How to connect follows from the URL, where this package made the storage.
        options = {key: value for key, value in backend.engine_kwargs.items() if key != "creator"}
        return _address_of_url(backend.url, tuple(options.items()))
    if isinstance(backend, InMemoryStorage):
        raise StorageNotShared(
            "The study is in this process's memory, where executors cannot reach it: "
            "give a database URL as `storage`."
        )
    return storage


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
    url = make_url(address.url)
    mysql = url.get_backend_name() in ("mysql", "mariadb")
    host = url.host or ("localhost" if mysql else "")  # without one, MySQL's is a socket here
    if host in _LOCAL_NAMES or host.startswith("127."):
        raise StorageNotShared(
            f"{address} names {host!r}, which on every executor is the executor itself, but "
            f"{where}: write the name of this host instead."
        )


def database_file(address: StorageAddress | BaseStorage) -> Path | None:
    """The file that an SQLite database is, None for all others."""
    if not isinstance(address, StorageAddress) or not address.is_sqlite:
        return None
    name = make_url(address.url).database or ""
    return None if name.startswith("file:") else Path(name)


def installed_driver(url: URL) -> URL:
    """The same database through PyMySQL where mysqlclient, which the driver has, is missing."""
    preferred, other = _MYSQL_DRIVERS
    missing = not importlib.util.find_spec(preferred[0]) and importlib.util.find_spec(other[0])
    if missing and url.drivername.endswith(f"+{preferred[1]}"):
        return url.set(drivername=f"{url.get_backend_name()}+{other[1]}")
    return url


def database_package(address: StorageAddress) -> tuple[str, str | None] | None:
    """The package through which this process speaks to MySQL or MariaDB.

    Returns:
        Its name, and its version where it is installed; None for another database or package.
    """
    dialect = installed_driver(make_url(address.url)).get_driver_name()
    for module, name, package in _MYSQL_DRIVERS:
        if dialect == name:
            if not importlib.util.find_spec(module):
                return package, None
            with contextlib.suppress(metadata.PackageNotFoundError):  # on PYTHONPATH alone
                return package, metadata.version(package)
            return package, "of unknown version"
    return None


def _address_of_url(text: str, options: tuple[tuple[str, object], ...] = ()) -> StorageAddress:
    try:
        url = make_url(text)
        behind = (url.host, "" if url.get_backend_name() == "sqlite" else url.database)
        if "@" in str(behind):  # the end of a password, which no message may show
            raise ValueError
    except (sqlalchemy.exc.ArgumentError, ValueError):
        # The text may hold a password: it is not repeated.
        raise StorageUrlError(
            "The storage URL cannot be read: write it as mysql://user@host:3306/database or "
            "sqlite:///file.db, with special characters in user and password %-escaped."
        ) from None
    authority = None
    if url.get_backend_name() in ("mysql", "mariadb"):
        url, authority = _with_option_file(_with_driver(url))
        if not url.database:
            raise StorageUrlError(
                f"{_shown(url)} names no database: write mysql://user@host:3306/database."
            )
    elif url.get_backend_name() == "sqlite" and (
        not url.database or ":memory:" in url.database or url.query.get("mode") == "memory"
    ):
        raise StorageNotShared(
            "An SQLite database in memory is in this process alone: give a file, as in "
            f"{DEFAULT_STORAGE}."
        )
    elif url.get_backend_name() == "sqlite" and not (url.database or "").startswith("file:"):
        # Executors have another working directory.
        url = url.set(database=str(Path(url.database or "").absolute()))
    return StorageAddress(
        url=url.render_as_string(hide_password=False),
        shown=_shown(url),
        authority=authority,
        engine_options=options,
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


def _with_option_file(url: URL) -> tuple[URL, str | None]:
    """Put what option files and the environment know into the URL: executors have neither."""
    named = url.query.get("read_default_file")
    path = Path(str(named) if named else "~/.my.cnf").expanduser()
    if named and not path.is_file():
        raise StorageUrlError(
            f"The option file {path} of the storage URL does not exist: correct its path."
        )
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
    return with_encryption(url, client)


def _read_option_file(path: Path, group: str) -> dict[str, str]:
    """Options of `[client]` and of the group, as MySQL reads them, files that it includes not."""
    if not path.is_file():
        return {}
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        # The message may quote the password.
        raise StorageUrlError(
            f"The option file {path} cannot be read ({type(error).__name__}): correct it."
        ) from None
    found: dict[str, dict[str, str]] = {"client": {}, group: {}}
    section = ""
    for line in lines:
        if line.startswith("["):
            section = line[1:].partition("]")[0].strip()
        elif section in found and not line.startswith(("#", ";", "!")):
            key, _, value = line.partition("=")
            found[section][key.strip()] = _option_value(value)
    return {**found["client"], **found[group]}


def _option_value(text: str) -> str:
    known = _BEFORE_COMMENT.match(text)
    value = known[0].strip() if known else ""
    if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
        value = value[1:-1]
    return re.sub(r"""\\([ntrbs"'\\])""", lambda escape: _ESCAPES.get(escape[1], escape[1]), value)
