"""TLS that is really on: both servers, both Python packages, an authority of our own."""

from __future__ import annotations

import contextlib
import importlib.util
import pickle
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from optuna.storages import BaseStorage
from sqlalchemy.engine import URL, make_url

from optuna_spark.addresses import find_address
from optuna_spark.exceptions import StorageEncryptionError, StorageUrlError
from optuna_spark.preflight import Verdict, check
from optuna_spark.settings import StorageAddress
from optuna_spark.storage import close_storage, open_storage, tls_cipher
from tests import servers
from tests.certificates import Certificates, make_certificates
from tests.faults.proxy import LosesAnswers
from tests.servers import DatabaseServer

FLAVORS = servers.FLAVORS


class Recorder(LosesAnswers):
    """A proxy that loses nothing, and keeps what clients send."""

    def __init__(self, server_port: int) -> None:
        super().__init__(server_port, every=1)
        self.sent = b""

    def _ask(self, client: socket.socket, server: socket.socket, loses: threading.Event) -> None:
        while data := client.recv(65536):
            self.sent += data
            server.sendall(data)


VERIFYING = ["VERIFY_CA", "VERIFY_IDENTITY"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No option file, and no variable that names a storage."""
    for name in ("OPTUNA_STORAGE", "MYSQL_PWD", "OPTUNA_SPARK_STORAGE_GRACE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def others(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Of an authority that did not sign the server's certificate."""
    return make_certificates(tmp_path_factory.mktemp("others"))


@pytest.fixture(scope="module", params=FLAVORS)
def with_tls(
    request: pytest.FixtureRequest,
    certificates: Certificates,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[DatabaseServer]:
    start = getattr(servers, f"start_{request.param}")
    server = start(tmp_path_factory.mktemp("with-tls"), options=certificates.server_options)
    yield server
    server.stop()


@pytest.fixture(scope="module", params=FLAVORS)
def without_tls(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DatabaseServer]:
    options = {"mysql": ["--tls-version="], "mariadb": []}[request.param]
    start = getattr(servers, f"start_{request.param}")
    server = start(tmp_path_factory.mktemp("without-tls"), options=options)
    yield server
    server.stop()


@pytest.fixture(params=["mysqldb", "pymysql"])
def package(request: pytest.FixtureRequest) -> str:
    if request.param == "mysqldb" and not importlib.util.find_spec("MySQLdb"):
        pytest.skip("mysqlclient is not installed")
    return str(request.param)


def url_of(server: DatabaseServer, package: str, **query: str | Path) -> URL:
    url = make_url(server.create_database()).set(drivername=f"mysql+{package}")
    return url.update_query_dict({name: str(value) for name, value in query.items()})


def opened(url: URL) -> BaseStorage:
    """The storage as an executor opens it, on whose host there are none of our files."""
    address = find_address(url.render_as_string(hide_password=False))
    assert isinstance(address, StorageAddress)
    close_storage(open_storage(address, create_schema=True, grace=0))
    return open_storage(pickle.loads(pickle.dumps(address)), create_schema=False, grace=0)


def cipher_of(url: URL) -> str | None:
    storage = opened(url)
    try:
        return tls_cipher(storage)
    finally:
        close_storage(storage)


@pytest.mark.parametrize("mode", [None, "PREFERRED", "REQUIRED", "required"])
def test_it_is_on_where_the_server_offers_it(
    mode: str | None, with_tls: DatabaseServer, package: str
) -> None:
    query = {"ssl_mode": mode} if mode else {}
    assert "TLS_" in (cipher_of(url_of(with_tls, package, **query)) or "")


def test_it_is_off_where_the_url_says_so(with_tls: DatabaseServer, package: str) -> None:
    assert cipher_of(url_of(with_tls, package, ssl_mode="DISABLED")) == ""


@pytest.mark.parametrize("mode", [None, "PREFERRED", "DISABLED"])
def test_a_server_without_it_is_used_all_the_same(
    mode: str | None, without_tls: DatabaseServer, package: str
) -> None:
    query = {"ssl_mode": mode} if mode else {}
    assert cipher_of(url_of(without_tls, package, **query)) == ""


@pytest.mark.parametrize("mode", ["REQUIRED", *VERIFYING])
def test_a_server_without_it_is_refused_at_once(
    mode: str, without_tls: DatabaseServer, package: str
) -> None:
    url = url_of(without_tls, package, ssl_mode=mode)
    began = time.monotonic()
    address = find_address(url.render_as_string(hide_password=False))
    with pytest.raises(StorageEncryptionError, match=f"offers no TLS, which ssl_mode={mode}"):
        open_storage(address, create_schema=True, grace=30)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize("mode", [*VERIFYING, None])
def test_executors_get_the_authority_with_the_address(
    mode: str | None,
    with_tls: DatabaseServer,
    package: str,
    certificates: Certificates,
    tmp_path: Path,
) -> None:
    authority = tmp_path / "ca.pem"
    authority.write_bytes(certificates.authority.read_bytes())
    url = url_of(with_tls, package, ssl_ca=authority, **({"ssl_mode": mode} if mode else {}))
    address = find_address(url.render_as_string(hide_password=False))
    assert isinstance(address, StorageAddress)
    close_storage(open_storage(address, create_schema=True, grace=0))
    authority.unlink()
    storage = open_storage(pickle.loads(pickle.dumps(address)), create_schema=False, grace=0)
    assert "TLS_" in (tls_cipher(storage) or "")
    close_storage(storage)


@pytest.mark.parametrize("mode", VERIFYING)
def test_a_certificate_of_another_authority_is_refused_at_once(
    mode: str, with_tls: DatabaseServer, package: str, others: Certificates
) -> None:
    for query in ({"ssl_ca": others.authority}, {}):
        url = url_of(with_tls, package, ssl_mode=mode, **query)
        address = find_address(url.render_as_string(hide_password=False))
        with pytest.raises(StorageEncryptionError, match=r"does not hold \(.+\): correct ssl_ca"):
            open_storage(address, create_schema=True, grace=30)


def test_a_name_that_the_certificate_lacks_is_refused(package: str, tmp_path: Path) -> None:
    elsewhere = make_certificates(tmp_path / "elsewhere", host="192.0.2.1")
    server = servers.start_mariadb(tmp_path / "server", options=elsewhere.server_options)
    try:
        url = url_of(server, package, ssl_mode="VERIFY_IDENTITY", ssl_ca=elsewhere.authority)
        address = find_address(url.render_as_string(hide_password=False))
        with pytest.raises(StorageEncryptionError, match="does not hold"):
            open_storage(address, create_schema=True, grace=30)
    finally:
        server.stop()


def test_the_option_file_says_it_too(
    with_tls: DatabaseServer, package: str, certificates: Certificates, home: Path
) -> None:
    (home / ".my.cnf").write_text(
        f"[client]\nssl-mode=VERIFY_IDENTITY\nssl-ca={certificates.authority}\n"
    )
    address = find_address(url_of(with_tls, package).render_as_string(hide_password=False))
    assert isinstance(address, StorageAddress)
    assert make_url(address.url).query["ssl_mode"] == "VERIFY_IDENTITY"
    assert address.authority == certificates.authority.read_text()
    assert "CERTIFICATE" not in repr(address)


def test_the_password_is_not_sent_in_clear(without_tls: DatabaseServer, package: str) -> None:
    """MariaDB's library does so, to a server without TLS, when it is told to require it."""
    for mode in ("PREFERRED", "REQUIRED"):
        url = url_of(without_tls, package, ssl_mode=mode)
        with Recorder(without_tls.port) as proxy:
            sent = url.set(port=proxy.port).render_as_string(hide_password=False)
            with contextlib.suppress(StorageEncryptionError):
                close_storage(open_storage(find_address(sent), create_schema=True, grace=0))
            assert str(url.password).encode() not in proxy.sent
            assert str(url.username).encode() in proxy.sent or mode == "REQUIRED"


def test_an_account_that_must_use_it(with_tls: DatabaseServer, package: str) -> None:
    url = url_of(with_tls, package)
    with_tls.admin_sql(f"ALTER USER {url.username}@'127.0.0.1' REQUIRE SSL")
    assert cipher_of(url)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("ssl_mode=ON", "ssl_mode of the storage is 'ON': write one of DISABLED, "),
        ("ssl=true", "says 'ssl', which is not known"),
        ("ssl_verify_cert=true", "says 'ssl_verify_cert', which is not known"),
        ("ssl_mode=REQUIRED&ssl_ca=/x", "ssl_ca has no use with ssl_mode=REQUIRED"),
        ("ssl_ca=/no/such/file", "/no/such/file, which holds no certificates"),
        ("ssl_ca=/dev/null", "/dev/null, which holds no certificates"),
    ],
)
def test_a_wrong_value_is_one_sentence(query: str, says: str) -> None:
    for package in ("mysqldb", "pymysql"):
        with pytest.raises(StorageUrlError) as caught:
            find_address(f"mysql+{package}://u:s3cret@h/d?{query}")
        assert says in str(caught.value)
        assert "s3cret" not in str(caught.value)


@pytest.mark.usefixtures("spark")
def test_the_check_names_it(without_tls: DatabaseServer, package: str) -> None:
    url = url_of(without_tls, package, ssl_mode="REQUIRED")
    found = check(url.render_as_string(hide_password=False))
    texts = [each.text for each in found if each.verdict is Verdict.FAILED]
    assert texts
    assert all("offers no TLS, which ssl_mode=REQUIRED asks for" in text for text in texts)


@pytest.mark.usefixtures("spark")
@pytest.mark.parametrize("who", ["account", "server"])
def test_the_check_names_it_where_it_is_wanted_and_off(
    who: str, with_tls: DatabaseServer, package: str
) -> None:
    url = url_of(with_tls, package, ssl_mode="DISABLED")
    begin, end = {
        "account": (f"ALTER USER {url.username}@'127.0.0.1' REQUIRE SSL", "SELECT 1"),
        "server": tuple(f"SET GLOBAL require_secure_transport = {now}" for now in ("ON", "OFF")),
    }[who]
    with_tls.admin_sql(begin)
    try:
        found = check(url.render_as_string(hide_password=False))
    finally:
        with_tls.admin_sql(end)
    [finding] = [each for each in found if each.verdict is not Verdict.OK]
    assert (finding.where, finding.verdict) == ("storage", Verdict.FAILED)
    if finding.what == "TLS":  # the server has said no more than "access denied"
        assert finding.text == (
            "off, and the server refuses this account without it: leave ssl_mode=DISABLED out of "
            "the storage URL"
        )
    else:
        assert who == "server"
        assert "takes encrypted connections alone, and ssl_mode=DISABLED asks" in finding.text


@pytest.mark.usefixtures("spark")
def test_the_check_tells_a_wrong_password_from_it(with_tls: DatabaseServer, package: str) -> None:
    url = url_of(with_tls, package, ssl_mode="DISABLED").set(password="wrong")
    found = check(url.render_as_string(hide_password=False))
    [finding] = [each for each in found if each.verdict is not Verdict.OK]
    assert (finding.where, finding.what) == ("storage", "connection")
    assert "refuses the user" in finding.text


@pytest.mark.usefixtures("spark")
def test_the_check_warns_where_it_is_off(with_tls: DatabaseServer, package: str) -> None:
    url = url_of(with_tls, package, ssl_mode="DISABLED")
    found = check(url.render_as_string(hide_password=False))
    [finding] = [each for each in found if each.verdict is not Verdict.OK]
    assert (finding.what, finding.verdict) == ("TLS", Verdict.WARNING)
    assert finding.text.endswith("leave ssl_mode=DISABLED out of the URL")
