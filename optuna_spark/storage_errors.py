"""What goes wrong with a database: which errors pass, and what the others are to a user."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator

import optuna
import sqlalchemy
from optuna.storages import BaseStorage
from sqlalchemy.engine import make_url

from optuna_spark.exceptions import (
    DatabaseNotFound,
    SchemaVersionMismatch,
    StorageAccessDenied,
    StorageDriverMissing,
    StorageEncryptionError,
    StorageError,
    StorageUnreachable,
    StorageUrlError,
)
from optuna_spark.settings import StorageAddress

# Errors of MySQL, MariaDB and their clients that pass by themselves.
_CONTENTION = (
    1020,  # MariaDB: a record has changed since it was read
    1205,  # a lock was not had in time
    1213,  # deadlock
    1684,  # another process makes the tables at this moment
)
TOO_MANY_CONNECTIONS = (1040, 1203, 1226)  # in all, of one account, by a resource limit
_EARLY = re.compile(r"before completion of TLS handshake.*: (\d+) - (.+)", re.DOTALL)
AWAY = (
    0,  # PyMySQL: the connection was closed before
    1053,  # the server shuts down
    1317,  # the statement was killed
    1927,  # MariaDB: the connection was killed
    2002,  # no server at the socket
    2003,  # no server at the port
    2006,  # the server has gone away
    2013,  # the connection was lost during a statement
    2026,  # the connection was lost during the TLS handshake
    2055,  # the connection was lost while reading
    4031,  # the server closed an idle connection
)

# Error numbers of MySQL and MariaDB, what they are to us, and what the user is told.
_SENTENCES: tuple[tuple[tuple[int, ...], type[StorageError], str], ...] = (
    (
        (2002, 2003, 2005, 2006, 2013),
        StorageUnreachable,
        "No MySQL server can be reached at {where} ({reason}): start it, or correct host and "
        "port.",
    ),
    (
        TOO_MANY_CONNECTIONS,
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
        "option file), or the account; one that requires TLS is refused in the same words.",
    ),
    (
        (3159,),
        StorageEncryptionError,
        "The server at {where} takes encrypted connections alone, and ssl_mode=DISABLED asks for "
        "another: leave ssl_mode out of the storage URL.",
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


def is_passing(error: BaseException) -> bool:
    """Whether the same call may succeed later: a lock, or a server that is away.

    Example:
        >>> is_passing(sqlite3.OperationalError("database is locked"))
        True
    """
    if isinstance(error, StorageError):  # whoever raised it has waited
        return False
    for each in _chain(error):
        if getattr(each, "connection_invalidated", False):
            return True
        # Optuna reads on after a connection was lost, and SQLAlchemy then says only this.
        if isinstance(each, sqlalchemy.exc.PendingRollbackError):
            return True
        if isinstance(each, sqlite3.OperationalError) and "locked" in str(each):
            return True
    return error_code(error) in _CONTENTION + TOO_MANY_CONNECTIONS + AWAY


@contextlib.contextmanager
def translated_errors(address: StorageAddress | BaseStorage) -> Iterator[None]:
    """Turn SQLAlchemy's, the driver's and Optuna's errors into ours, one sentence each."""
    if not isinstance(address, StorageAddress):
        yield
        return
    try:
        yield
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise translate(address, error) from error
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


def error_code(error: BaseException) -> int | None:
    """The server's or client's error number in a chain of exceptions, if there is one."""
    original = _original(error)
    if original is None or not original.args or not isinstance(original.args[0], int):
        return None
    # MariaDB's client hides what the server says while TLS is not agreed upon yet.
    early = _EARLY.search(str(original.args[-1]))
    return int(early[1]) if early else int(original.args[0])


def translate(address: StorageAddress, error: BaseException) -> StorageError:
    """What is raised to the user in place of an error of the database."""
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
    code, reason = error_code(error), reason_of(error)
    for codes, kind, sentence in _SENTENCES:
        if code in codes and not address.is_sqlite:
            where = f"{url.host or 'localhost'}:{url.port or 3306}"
            facts = {"user": url.username, "database": url.database, "reason": reason}
            return kind(sentence.format(where=where, **facts))
    return StorageError(
        f"The storage {address} cannot be used ({reason}): correct its URL, or the database."
    )


def reason_of(error: BaseException) -> str:
    """What the database's client says of an error, on one line."""
    cause = _original(error) or error
    text = str(cause.args[-1] if cause.args else cause) or type(cause).__name__
    early = _EARLY.search(text)
    text = early[2] if early else text
    return text.splitlines()[0].rstrip(".")


def _original(error: BaseException) -> BaseException | None:
    """The exception of the database's client behind SQLAlchemy's and Optuna's."""
    found = (getattr(each, "orig", None) for each in _chain(error))
    return next((original for original in found if original is not None), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = getattr(seen, "orig", None) or seen.__cause__


@contextlib.contextmanager
def optuna_errors() -> Iterator[None]:
    """Give errors of SQLAlchemy the type that Optuna gives them."""
    try:
        yield
    except sqlalchemy.exc.IntegrityError:
        raise
    except sqlalchemy.exc.SQLAlchemyError as error:
        raise optuna.exceptions.StorageInternalError(
            f"The database refused a statement: {error}"
        ) from error
