"""How a connection to MySQL or MariaDB is encrypted: one spelling for both Python packages.

The URL says it as MySQL's own client does, `?ssl_mode=VERIFY_CA&ssl_ca=/path/ca.pem`. The packages
differ: mysqlclient on MariaDB's library is unencrypted unless told, and takes "required" for a
wish; PyMySQL knows no `ssl_mode` at all.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL, make_url

from optuna_spark.exceptions import StorageEncryptionError, StorageUrlError
from optuna_spark.settings import StorageAddress

MODES = ("DISABLED", "PREFERRED", "REQUIRED", "VERIFY_CA", "VERIFY_IDENTITY")
_VERIFYING = MODES[3:]
_MODE, _AUTHORITY = "ssl_mode", "ssl_ca"
# The key and certificate of the client are files that each host has by itself.
_KNOWN = (_MODE, _AUTHORITY, "ssl_cert", "ssl_key", "ssl_key_password")
_NO_SERVER = 2003  # the client's number for a server that does not answer
_TLS_ERROR = 2026  # the client's number for all that goes wrong with TLS
_GREETING_SECONDS = 10.0
_CLIENT_SSL = 0x0800  # in the capabilities of the server's greeting
_offering: set[tuple[str, int]] = set()  # servers that have offered TLS to this process
_REFUSED = re.compile(r"certificate|self.signed|\bissuer\b|expired|mismatch", re.IGNORECASE)


def with_encryption(url: URL, client: dict[str, str]) -> tuple[URL, str | None]:
    """Read what a URL and an option file say of encryption.

    Args:
        url: Of a MySQL or MariaDB database.
        client: Options of the option file, as `ssl-mode` or `ssl_mode`.

    Returns:
        The URL, with the mode, if one is given, in it; and the certificates of `ssl_ca`, in PEM,
        which go to executors because they have no such file.

    Raises:
        StorageUrlError: an option is unknown, has no such value, or names no certificates.
    """
    given = {key.replace("-", "_"): key for key in url.query if key.lower().startswith("ssl")}
    for name, key in given.items():
        if name not in _KNOWN:
            raise StorageUrlError(
                f"The storage URL says {key!r}, which is not known: encryption is asked for by "
                f"ssl_mode={'|'.join(MODES)} and ssl_ca=FILE."
            )
    options = {key.replace("-", "_"): value for key, value in client.items()}
    named = url.query[given[_MODE]] if _MODE in given else options.get(_MODE)
    mode = str(named).upper() if named else None
    if mode is not None and mode not in MODES:
        raise StorageUrlError(
            f"ssl_mode of the storage is {named!r}: write one of {', '.join(MODES)}."
        )
    path = str(url.query[given[_AUTHORITY]]) if _AUTHORITY in given else None
    if path and mode not in (None, *_VERIFYING):
        raise StorageUrlError(
            f"ssl_ca has no use with ssl_mode={mode}: write VERIFY_CA or VERIFY_IDENTITY, or "
            "leave ssl_ca out."
        )
    if mode in (None, *_VERIFYING):
        path = path or options.get(_AUTHORITY)
    if path and mode is None:
        mode = "VERIFY_CA"  # as for MySQL's own client
    url = url.difference_update_query(
        [given[name] for name in (_MODE, _AUTHORITY) if name in given]
    )
    if mode is not None:
        url = url.update_query_dict({_MODE: mode})
    if not path:
        return url, None
    path = str(Path(path).expanduser().absolute())
    return url.update_query_dict({_AUTHORITY: path}), _certificates(path)


def turned_on(address: StorageAddress) -> StorageAddress | None:
    """The same address with encryption on; None where it is not turned off."""
    url = make_url(address.url)
    if str(url.query.get(_MODE, "")).upper() != "DISABLED":
        return None
    encrypted = url.update_query_dict({_MODE: "REQUIRED"})
    return replace(address, url=encrypted.render_as_string(hide_password=False))


def connect(url: URL, arguments: dict[str, Any], authority: str | None) -> Any:
    """Connect as the URL's `ssl_mode` says; encrypted where the server can, if it says nothing.

    Args:
        url: Of a MySQL or MariaDB database, from `with_encryption`.
        arguments: Further ones of the package's `connect`.
        authority: The certificates of `ssl_ca`, in PEM.

    Returns:
        The package's connection.

    Raises:
        StorageEncryptionError: the server offers no TLS, or has a certificate that does not hold.
    """
    mode = str(url.query.get(_MODE, "PREFERRED"))
    try:
        return _connect(url, arguments, mode, authority)
    except _NotOffered as error:
        if mode == "PREFERRED":
            return _connect(url, arguments, "DISABLED", None)
        raise StorageEncryptionError(
            f"The server at {_place(url)} offers no TLS, which ssl_mode={mode} asks for: set it "
            "up there, as deploy/mysql/README.md says, or write ssl_mode=PREFERRED."
        ) from error


class _NotOffered(Exception):
    """The server has no TLS."""


def _connect(url: URL, arguments: dict[str, Any], mode: str, authority: str | None) -> Any:
    dialect = url.get_dialect()()
    module: Any = dialect.import_dbapi()
    _, found = dialect.create_connect_args(url.difference_update_query([_MODE, _AUTHORITY]))
    parameters = {**found, **arguments}
    prepared = _for_pymysql if url.get_driver_name() == "pymysql" else _for_mysqlclient
    try:
        with prepared(parameters, mode, authority):
            connection = module.connect(**parameters)
    except TimeoutError as error:  # a firewall that drops packets: the client would wait again
        raise module.OperationalError(_NO_SERVER, "no answer in time") from error
    except module.OperationalError as error:
        # The number alone does not tell: a connection lost in the handshake has it too.
        code, reason = error.args[0], str(error.args[-1])
        if code == _TLS_ERROR and "support" in reason:
            raise _NotOffered from error
        original = getattr(error, "original_exception", None)
        refused = code == _TLS_ERROR and _REFUSED.search(reason)
        if refused or isinstance(original, ssl.SSLCertVerificationError):
            raise StorageEncryptionError(
                f"The certificate of the server at {_place(url)} does not hold "
                f"({original or reason}): correct ssl_ca, or the host in the storage URL."
            ) from error
        raise
    if prepared is _for_mysqlclient and mode not in ("DISABLED", "PREFERRED"):
        _check_encrypted(connection)
    return connection


@contextlib.contextmanager
def _for_pymysql(parameters: dict[str, Any], mode: str, authority: str | None) -> Iterator[None]:
    if mode == "DISABLED":
        parameters["ssl_disabled"] = True
        yield
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = mode == "VERIFY_IDENTITY"
    if mode not in _VERIFYING:
        context.verify_mode = ssl.CERT_NONE
    elif authority is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cadata=authority)
    own = parameters.pop("ssl", {})  # of SQLAlchemy, from the URL
    if "cert" in own:
        password = parameters.pop("ssl_key_password", None)
        context.load_cert_chain(own["cert"], own.get("key"), password)
    parameters["ssl"] = context
    yield


@contextlib.contextmanager
def _for_mysqlclient(
    parameters: dict[str, Any], mode: str, authority: str | None
) -> Iterator[None]:
    # MariaDB's library takes "required" for done: to a server without TLS it sends the password
    # in clear. And "preferred" is unencrypted: https://github.com/PyMySQL/mysqlclient/pull/700.
    host, port = parameters.get("host"), parameters.get("port", 3306)
    by_socket = host in (None, "", "localhost") or "unix_socket" in parameters
    if mode in ("PREFERRED", "REQUIRED") and not by_socket:
        timeout = parameters.get("connect_timeout", _GREETING_SECONDS)
        if not _offers_tls(str(host), int(port), float(timeout)):
            raise _NotOffered
    parameters["ssl_mode"] = "REQUIRED" if mode == "PREFERRED" else mode
    if authority is None:
        yield
        return
    # It takes nothing but a file, and reads it while it connects.
    with tempfile.NamedTemporaryFile("w", suffix=".pem", encoding="ascii") as file:
        file.write(authority)
        file.flush()
        parameters["ssl"] = {**parameters.get("ssl", {}), "ca": file.name}
        yield


def _offers_tls(host: str, port: int, timeout: float) -> bool:
    """Whether the server's greeting offers TLS; where there is none, the client says why."""
    if (host, port) in _offering:
        return True
    try:
        with (
            socket.create_connection((host, port), timeout) as probe,
            probe.makefile("rb") as file,
        ):
            header = file.read(4)
            greeting = file.read(int.from_bytes(header[:3], "little"))
    except TimeoutError:
        raise
    except OSError:
        return True
    _, _, rest = greeting.partition(b"\0")  # behind the protocol and the server's version
    if greeting[:1] != b"\x0a" or len(rest) < 15:  # such as: too many connections
        return True
    offered = bool(int.from_bytes(rest[13:15], "little") & _CLIENT_SSL)
    if offered:
        _offering.add((host, port))
    return offered


def _check_encrypted(connection: Any) -> None:
    # MariaDB's library goes on without TLS, "required" or not, unless it verifies certificates.
    connection.query("SHOW SESSION STATUS LIKE 'Ssl_cipher'")
    [(_, cipher)] = connection.store_result().fetch_row(maxrows=0)
    if not cipher:
        connection.close()
        raise _NotOffered


def _certificates(path: str) -> str:
    try:
        text = Path(path).read_text(encoding="ascii")
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise StorageUrlError(
            f"ssl_ca of the storage is {path}, which holds no certificates in PEM's form "
            f"({type(error).__name__}): correct the path."
        ) from error
    return text


def _place(url: URL) -> str:
    return f"{url.host or 'localhost'}:{url.port or 3306}"
