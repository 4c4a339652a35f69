"""Open a study's storage, on the driver and on executors."""

from __future__ import annotations

import contextlib
import functools
import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.storages import BaseStorage

# Private; Optuna 4.9 and 5.0 have it.
from optuna.storages._cached_storage import _CachedStorage, _StudyInfo
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.orm import configure_mappers

from optuna_spark.addresses import installed_driver
from optuna_spark.encryption import connect
from optuna_spark.exceptions import StorageNotShared
from optuna_spark.lean_storage import READS
from optuna_spark.patient_storage import PatientStorage, patiently
from optuna_spark.settings import StorageAddress, storage_grace
from optuna_spark.storage_errors import error_code, is_passing, translated_errors

_logger = logging.getLogger(__name__)

CONNECT_TIMEOUT = 10  # seconds; a firewall that drops packets must not look like a hang

DRIVER_CONNECTIONS = 8  # that are left beside the task slots
_ANSWER_SECONDS = 60  # for a statement: more than a lock wait, which the server ends after 50
_LOCK_SECONDS = 5  # that SQLite waits for a lock by itself
_FRESH_SECONDS = 0.05  # that an executor's list of trials is new enough for its sampler
_HELD_SECONDS = 0.5  # that an executor holds a system attribute for its trial's next write
_MOST_SNAPSHOT_BYTES = 64_000_000
_NO_ANSWER = (2002, 2003)
_MADE_TWICE = (1050, 1061, 1062)  # another process makes the same tables at the same moment
_warned: set[str] = set()  # storages that the user was told of


def open_storage(
    address: StorageAddress | BaseStorage,
    *,
    create_schema: bool,
    keep_connections: bool = True,
    grace: float | None = None,
) -> BaseStorage:
    """Connect to a storage.

    Args:
        address: From `find_address`.
        create_schema: Make the tables where they are missing, and check their version. True on
            the driver only: executors racing to create one schema is a known source of failures.
        keep_connections: Keep one open between transactions, as the server has enough.
        grace: Seconds for which the database may be away; None for what the environment says.

    Raises:
        StorageError: or one of its kinds, each with the remedy.
    """
    if isinstance(address, BaseStorage):
        return address

    seconds = storage_grace() if grace is None else grace

    def open_one() -> PatientStorage:
        storage = _rdb_storage(address, create_schema, keep_connections, seconds)
        if create_schema:
            _warn_of_collation(address, storage)
        return storage

    def passes(error: BaseException) -> bool:
        if not create_schema:
            return is_passing(error)
        code = error_code(error)
        # That nobody answers is a mistake in the address, as long as nobody ever did.
        return code in _MADE_TWICE or (is_passing(error) and code not in _NO_ANSWER)

    with translated_errors(address):
        storage = patiently(open_one, address, lambda: seconds, passes=passes)
        return optuna.storages.get_storage(storage)


def is_patient(storage: BaseStorage) -> bool:
    """Whether a storage waits for its database as this package's own do."""
    return _patient(storage) is not None


def _patient(storage: BaseStorage) -> PatientStorage | None:
    backend = getattr(storage, "_backend", storage)  # Optuna wraps it in a cache
    return backend if isinstance(backend, PatientStorage) else None


def claim_trial(storage: BaseStorage, trial_id: int, attributes: dict[str, Any]) -> bool:
    """Turn a trial that waits RUNNING, and give it attributes that say who did.

    Returns:
        Whether it was waiting.

    Raises:
        UpdateFinishedTrialError: it is finished.
    """
    backend = _patient(storage)
    if backend is not None:
        return backend.claim_trial(trial_id, attributes)
    claimed = storage.set_trial_state_values(trial_id, TrialState.RUNNING)
    for key, value in attributes.items() if claimed else ():
        storage.set_trial_system_attr(trial_id, key, value)
    return claimed


def create_trials(
    storage: BaseStorage, study_id: int, count: int, key: str, value: Any
) -> list[int]:
    """Create trials that wait, with a system attribute that this process alone gives."""
    backend = _patient(storage)
    if backend is not None:
        return backend.create_trials(study_id, count, key, value)
    template = optuna.trial.create_trial(state=TrialState.WAITING, system_attrs={key: value})
    return [storage.create_new_trial(study_id, template) for _ in range(count)]


def remember_trial(storage: BaseStorage, study_id: int, trial: FrozenTrial) -> None:
    """Let Optuna's cache know a trial that it has not seen in a list yet."""
    if isinstance(storage, _CachedStorage):
        with storage._lock:
            storage._studies.setdefault(study_id, _StudyInfo())
            storage._add_trials_to_cache(study_id, [trial])


def leave_unread(storage: BaseStorage, keys: Sequence[str]) -> None:
    """Have lists of trials come without these system attributes of theirs."""
    backend = _patient(storage)
    if backend is not None:
        backend.unread = tuple(keys)


def configure_models() -> None:
    """Have SQLAlchemy prepare Optuna's tables, as each process would that opens a storage."""
    configure_mappers()


def study_snapshot(storage: BaseStorage, study_id: int) -> bytes | None:
    """What a driver has read of a study, for executors to begin with.

    Of 10,000 trials it is a third of the bytes that the server would send to each of them, and a
    fifth of the work.

    Returns:
        Pickled for `begin_with_snapshot`; None where it cannot be had, or would be too large.
    """
    if not isinstance(storage, _CachedStorage):
        return None
    name = storage.get_study_name_from_id(study_id)
    storage.get_all_trials(study_id, deepcopy=False)
    with storage._lock:
        known = study_id, name, storage._studies[study_id]
        data = pickle.dumps(known, pickle.HIGHEST_PROTOCOL)
    return data if len(data) <= _MOST_SNAPSHOT_BYTES else None


def begin_with_snapshot(storage: BaseStorage, snapshot: bytes | None) -> None:
    """Let Optuna's cache know what a driver has read of a study."""
    if snapshot is not None and isinstance(storage, _CachedStorage):
        known: tuple[int, str, _StudyInfo] = pickle.loads(snapshot)
        study_id, name, info = known
        with storage._lock:
            storage._studies[study_id] = info
            storage._add_trials_to_cache(study_id, list(info.trials.values()))
        backend = _patient(storage)
        if backend is not None:
            backend.known_studies[name] = study_id


def connection_limit(storage: BaseStorage) -> int | None:
    """How many connections the server takes, None where it does not say."""
    asked = sqlalchemy.text("SELECT @@max_connections, @@max_user_connections")
    limits = _ask_mysql(storage, asked)
    return None if limits is None else min(int(limit) for limit in limits if limit)  # 0: none


def enough_connections(storage: BaseStorage, slots: int) -> bool:
    """Whether the server lets each task slot keep a connection for itself, and the driver some."""
    limit = connection_limit(storage)
    if limit is None or slots + DRIVER_CONNECTIONS <= limit:
        return True
    _logger.warning(
        "The database server takes %d connections, too few for %d task slots to keep one each: "
        "each transaction opens one, which is slower; raise max_connections, or lower `n_jobs`.",
        limit,
        slots,
    )
    return False


def name_collation(storage: BaseStorage) -> str | None:
    """How the server compares names of parameters, None where it does not say."""
    asked = sqlalchemy.text(
        "SELECT collation_name FROM information_schema.columns WHERE table_schema = "
        "DATABASE() AND table_name = 'trial_params' AND column_name = 'param_name'"
    )
    found = _ask_mysql(storage, asked)
    return None if found is None else str(found[0])


def tls_cipher(storage: BaseStorage) -> str | None:
    """How the connection is encrypted; empty where it is not, None where it is no matter."""
    found = _ask_mysql(storage, sqlalchemy.text("SHOW SESSION STATUS LIKE 'Ssl_cipher'"))
    return None if found is None else str(found[1])


def try_to_write(storage: BaseStorage) -> None:
    """Write something of which nothing stays."""
    backend = _patient(storage)
    if backend is not None:
        with backend.engine.connect() as connection:
            name = "optuna-spark check"
            insert = sqlalchemy.text("INSERT INTO studies (study_name) VALUES (:name)")
            connection.execute(insert, {"name": name})
            connection.rollback()


def _ask_mysql(storage: BaseStorage, question: sqlalchemy.TextClause) -> Sequence[Any] | None:
    backend = _patient(storage)
    if backend is None:
        return None
    engine = backend.engine
    if engine.dialect.name not in ("mysql", "mariadb"):
        return None

    def ask() -> Sequence[Any] | None:
        with engine.connect() as connection:
            row: Sequence[Any] | None = connection.execute(question).one_or_none()
            return row

    return backend.patiently(ask)


def close_storage(storage: BaseStorage) -> None:
    """Give the storage's connections back to the database."""
    backend = _patient(storage)
    if backend is not None:
        backend.remove_session()
        backend.engine.dispose()


def on_wait(storage: BaseStorage, tell: Callable[[float], None]) -> None:
    """Have a function told, with each try, how long a call waits for the database already."""
    backend = _patient(storage)
    if backend is not None:
        backend.on_wait = tell


@contextlib.contextmanager
def patience(storage: BaseStorage, seconds: float) -> Iterator[None]:
    """Wait for a database that is away no longer than so, meanwhile."""
    backend = _patient(storage)
    if backend is None:
        yield
        return
    usual, backend.grace = backend.grace, min(backend.grace, seconds)
    try:
        yield
    finally:
        backend.grace = usual


def _rdb_storage(
    address: StorageAddress, create_schema: bool, keep_connections: bool, grace: float
) -> PatientStorage:
    options: dict[str, Any] = {
        # A connection that is gone is found by the statement that fails, which is made again.
        "pool_pre_ping": False,
        # Each transaction is ended where it is begun, and need not be ended a second time.
        "pool_reset_on_return": None,
        **dict(address.engine_options),
    }
    url = make_url(address.url)
    if not create_schema:
        url = installed_driver(url)
    name = url.get_backend_name()
    arguments = dict(options.get("connect_args", {}))
    if name == "sqlite":
        arguments.setdefault("timeout", _LOCK_SECONDS)
        arguments["isolation_level"] = None  # this module begins transactions, see below
        if not create_schema and not Path(url.database or "").exists():
            raise StorageNotShared(
                f"{address} is a file of the driver's host, and is not on this executor's: use a "
                "MySQL or MariaDB server, which deploy/mysql/setup.sh sets up."
            )
    elif name in ("mysql", "mariadb"):
        arguments.setdefault("connect_timeout", CONNECT_TIMEOUT)
        arguments.setdefault("read_timeout", _ANSWER_SECONDS)
        arguments.setdefault("write_timeout", _ANSWER_SECONDS)
        # Optuna needs no snapshot across statements, and gap locks make deadlocks.
        options.setdefault("isolation_level", "READ COMMITTED")
        if not keep_connections:
            for name_of_option in ("pool_size", "max_overflow", "pool_pre_ping"):
                options.pop(name_of_option, None)
            options["poolclass"] = sqlalchemy.pool.NullPool
        elif "poolclass" not in options:
            # One is kept; the driver's sign of life opens and closes a second now and then.
            options.setdefault("pool_size", 1)
            if not create_schema:
                options.update(pool_size=1, max_overflow=1)
        if url.get_driver_name() == "pymysql" and url.password:
            # PyMySQL would encode it as Latin-1, every other client sends UTF-8.
            arguments.setdefault("password", str(url.password).encode())
        # Who hands arguments for TLS to the package itself knows what for.
        known = url.get_driver_name() in ("mysqldb", "pymysql")
        if known and not any(key.startswith("ssl") for key in arguments):
            made = functools.partial(connect, url, arguments, address.authority)
            options.setdefault("creator", made)
    if arguments:
        options["connect_args"] = arguments
    # Optuna runs the URL through str.format.
    text = url.render_as_string(hide_password=False).replace("{", "{{").replace("}", "}}")
    storage = PatientStorage(address, text, options, grace=grace, skip=not create_schema)
    if not create_schema:
        storage.fresh_seconds, storage.held.seconds = _FRESH_SECONDS, _HELD_SECONDS
    if name == "sqlite":
        # SQLite ignores FOR UPDATE, with which Optuna lets one claimer alone have a trial: there,
        # a transaction must have the file to itself from its first statement on.
        sqlalchemy.event.listen(storage.engine, "begin", _begin)
    return storage


def _begin(connection: sqlalchemy.Connection) -> None:
    reads = connection.get_execution_options().get(READS)
    connection.exec_driver_sql("BEGIN" if reads else "BEGIN IMMEDIATE")


def _warn_of_collation(address: StorageAddress, storage: BaseStorage) -> None:
    collation = name_collation(storage)
    if collation and collation.endswith("_ci") and address.url not in _warned:
        _warned.add(address.url)
        _logger.warning(
            "%s compares names without case (%s), so parameters 'a' and 'A' would be one: "
            "use a database with a case-sensitive collation, as deploy/mysql/setup.sh makes, "
            "if an objective has such names.",
            address,
            collation,
        )
