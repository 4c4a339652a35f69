"""deploy/mysql/setup.sh for executors on other machines: sizes, address, TLS.

Each server has a data directory of its own; nothing of the machine's configuration is touched.
"""

from __future__ import annotations

import pwd
import re
import shlex
import shutil
import socket
import ssl
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest

from optuna_spark.storage import DRIVER_CONNECTIONS
from tests.deployments import (
    DATABASE,
    NEIGHBOUR,
    USER,
    Deployment,
    folder_for_mysql,
    private_server,
    recording_client,
    run_setup,
    stop_private_server,
)
from tests.fixtures_spark import eventually
from tests.servers import Installation, find_server

SLOTS = 40
REMOTE = ("--host", "%")


@pytest.fixture(scope="module")
def address() -> str:
    """Where this machine is to others: by loopback, a client is another account to the server."""
    done = subprocess.run(["hostname", "-I"], capture_output=True, text=True)
    found = [name for name in done.stdout.split() if ":" not in name]
    if not found:
        pytest.skip("this machine has no address but loopback")
    return found[0]


@pytest.fixture(scope="module", params=["mysql", "mariadb"])
def deployment(request: pytest.FixtureRequest) -> Iterator[Deployment]:
    """A private server for a cluster, made from nothing."""
    installation = find_server(request.param)
    with folder_for_mysql() as work:
        log, option_file = work / "arguments.log", work / "made" / "mysql.cnf"
        common = ["--database", DATABASE, "--user", USER, "--option-file", str(option_file)]
        made = Deployment(common, option_file, log, recording_client(work), lambda sql: "")
        if not shutil.which("mysql") or "mysql" not in {entry.pw_name for entry in pwd.getpwall()}:
            pytest.skip("no client or no account mysql is here")
        private_server(made, work)
        as_installed(installation, work / "bin")
        try:
            made.output = made.run(*REMOTE, "--slots", str(SLOTS))
            yield made
        finally:
            stop_private_server(work / "data")


def as_installed(installation: Installation, folder: Path) -> None:
    """Has the script find this server first, wherever it is unpacked."""
    reachable = subprocess.run(
        ["runuser", "-u", "mysql", "--", "test", "-x", installation.command[-1]]
    )
    if reachable.returncode:
        pytest.skip(f"the account mysql cannot reach {installation.command[-1]}")
    plugins = installation.prefix / "lib" / "mysql" / "plugin"
    options = [f"--basedir={installation.prefix}"]
    if installation.flavor == "mysql":
        options += [f"--plugin-dir={plugins}", "--secure-file-priv=NULL"]
    script = folder / "mysqld"
    script.write_text(
        "#!/bin/sh\nexport OPENSSL_CONF=/dev/null\n"
        f'exec {shlex.join(installation.command)} "$@" {shlex.join(options)}\n'
    )
    script.chmod(0o755)


def data_of(deployment: Deployment) -> Path:
    return deployment.option_file.parents[1] / "data"


def settings_of(deployment: Deployment) -> Path:
    return data_of(deployment) / "optuna-spark.cnf"


def written(deployment: Deployment, name: str) -> str:
    [value] = re.findall(rf"(?m)^{name} = (.*)$", settings_of(deployment).read_text())
    return str(value)


def changes(output: str) -> list[str]:
    """What a run of the script says but for the last line, which is the URL."""
    return output.splitlines()[:-1]


def ask(deployment: Deployment, variable: str) -> str:
    return deployment.admin_sql(f"SELECT @@{variable}").strip()


def verifying(deployment: Deployment) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # checks the name as well
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(data_of(deployment) / "optuna-spark-cert.pem")
    return context


def test_the_server_is_sized_for_the_slots(deployment: Deployment) -> None:
    connections = int(ask(deployment, "max_connections"))
    assert connections == SLOTS + DRIVER_CONNECTIONS + 20
    assert int(ask(deployment, "innodb_buffer_pool_size")) == 256 * 2**20
    assert int(ask(deployment, "wait_timeout")) == 28800
    settings = settings_of(deployment).read_text().splitlines()
    for name in ("max_connections", "innodb_buffer_pool_size", "wait_timeout"):
        [line] = [number for number, text in enumerate(settings) if text.startswith(f"{name} =")]
        assert settings[line - 1].startswith("# ")  # the reason


def test_another_machine_needs_tls(deployment: Deployment, address: str) -> None:
    to_server = {
        "host": address,
        "port": int(deployment.url.port or 0),
        "user": USER,
        "password": deployment.password,
        "database": DATABASE,
    }
    with pytest.raises(pymysql.OperationalError, match="Access denied"):
        pymysql.connect(**to_server, ssl_disabled=True)
    deployment.admin_sql(f"CREATE DATABASE {NEIGHBOUR}")
    try:
        connection = pymysql.connect(**to_server, ssl=verifying(deployment))
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT CURRENT_USER()")
            assert cursor.fetchall() == ((f"{USER}@%",),)
            cursor.execute("SHOW STATUS LIKE 'Ssl_cipher'")
            assert cursor.fetchall()[0][1]
            with pytest.raises(pymysql.OperationalError, match="denied"):
                cursor.execute(f"USE {NEIGHBOUR}")
    finally:
        deployment.admin_sql(f"DROP DATABASE {NEIGHBOUR}")


def test_only_the_server_reads_its_key(deployment: Deployment) -> None:
    key = (data_of(deployment) / "optuna-spark-key.pem").stat()
    assert stat.S_IMODE(key.st_mode) == 0o400
    assert pwd.getpwuid(key.st_uid).pw_name == "mysql"
    said = [line for line in deployment.output.splitlines() if "certificate" in line]
    assert len(said) == 1
    assert f"{data_of(deployment)}/optuna-spark-cert.pem" in said[0]


def test_only_more_slots_change_the_settings(deployment: Deployment) -> None:
    def state() -> tuple[object, ...]:
        files = sorted(data_of(deployment).glob("optuna-spark*"))
        kept = [(path.name, path.stat().st_mtime_ns) for path in files if path.suffix != ".log"]
        return kept, (data_of(deployment) / "optuna-spark.pid").read_text()

    before = state()
    for options in ((), ("--slots", str(SLOTS)), ("--slots", "1")):
        assert changes(deployment.run(*REMOTE, *options)) == ["Nothing to change."]
        assert state() == before
    [change] = changes(deployment.run(*REMOTE, "--slots", "60"))
    assert change == f"Wrote {settings_of(deployment)} for 60 task slots and restarted the server."
    assert state() != before
    assert int(ask(deployment, "max_connections")) == 60 + DRIVER_CONNECTIONS + 20
    assert changes(deployment.run(*REMOTE)) == ["Nothing to change."]


def test_a_larger_value_is_kept(deployment: Deployment) -> None:
    settings = settings_of(deployment)
    text = re.sub(r"(?m)^(max_connections) = .*", r"\1 = 700", settings.read_text())
    settings.write_text(re.sub(r"(?m)^(innodb_buffer_pool_size) = .*", r"\1 = 1g", text))
    [change] = changes(deployment.run(*REMOTE, "--slots", "110"))  # for max_connect_errors
    assert "restarted the server" in change
    assert int(ask(deployment, "max_connections")) == 700
    assert int(ask(deployment, "innodb_buffer_pool_size")) == 2**30
    assert int(ask(deployment, "max_connect_errors")) == 110


def test_what_is_enough_without_the_file_is_left_to_others(deployment: Deployment) -> None:
    settings = settings_of(deployment)
    settings.write_text(re.sub(r"(?m)^max_connections = .*\n", "", settings.read_text()))
    deployment.admin_sql("SET GLOBAL max_connections = 900")
    assert changes(deployment.run(*REMOTE)) == ["Nothing to change."]
    deployment.admin_sql("SET GLOBAL max_connections = 50")
    [change] = changes(deployment.run(*REMOTE))
    [slots] = re.findall(r"for (\d+) task slots and restarted the server", change)
    assert int(ask(deployment, "max_connections")) == int(slots) + DRIVER_CONNECTIONS + 20


def test_a_setting_that_is_not_in_force_is_named(deployment: Deployment) -> None:
    wanted = written(deployment, "max_connections")
    deployment.admin_sql("SET GLOBAL max_connections = 50")
    said = changes(deployment.run(*REMOTE))
    deployment.admin_sql(f"SET GLOBAL max_connections = {wanted}")
    assert said[-1] == "Nothing to change."
    assert f"max_connections is 50 although {settings_of(deployment)} says {wanted}" in said[0]


def test_settings_that_the_server_refuses_are_taken_back(deployment: Deployment) -> None:
    before = settings_of(deployment).read_text()
    done = run_setup(
        *deployment.options,
        *REMOTE,
        *("--bind-address", "no.such.host.invalid"),
        **deployment.environment,
    )
    assert done.returncode == 1, done.stdout
    assert "has its old settings again" in done.stdout
    assert settings_of(deployment).read_text() == before
    assert changes(deployment.run(*REMOTE)) == ["Nothing to change."]


def test_the_address_can_be_chosen(deployment: Deployment, address: str) -> None:
    assert written(deployment, "bind_address") == "0.0.0.0"
    assert "firewall" in deployment.output
    for listen in (address, "0.0.0.0"):
        deployment.run(*REMOTE, "--bind-address", listen)
        assert ask(deployment, "bind_address") == listen
        assert "restarted" not in deployment.run(*REMOTE)
        assert ask(deployment, "bind_address") == listen


def test_a_lost_certificate_is_made_anew(deployment: Deployment, address: str) -> None:
    (data_of(deployment) / "optuna-spark-cert.pem").unlink()
    said = changes(deployment.run(*REMOTE))
    assert [line.split()[0] for line in said] == ["Made", "Wrote"]
    pymysql.connect(
        host=address,
        port=int(deployment.url.port or 0),
        user=USER,
        password=deployment.password,
        ssl=verifying(deployment),
    ).close()


def listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def test_a_server_that_something_else_started_is_not_restarted(deployment: Deployment) -> None:
    data, settings = data_of(deployment), settings_of(deployment)
    stop_private_server(data)
    program = data.parent / "bin" / "mysqld"
    files = {"datadir": data, "socket": data / "mysqld.sock", "pid-file": data / "other.pid"}
    options = [f"--{name}={path}" for name, path in files.items()]
    command = [program, f"--defaults-file={settings}", "--user=mysql", "--loose-mysqlx=OFF"]
    with (data.parent / "other.log").open("wb") as log:
        process = subprocess.Popen([*command, *options], stdout=log, stderr=log)
    try:
        eventually(lambda: listens(data / "mysqld.sock"))
        said = "\n".join(changes(deployment.run(*REMOTE, "--slots", "900")))
        assert "Note: restart the server, which something else has started" in said
        assert f"although {settings} says 928" in said
        assert process.poll() is None
    finally:
        process.terminate()
        process.wait(timeout=60)
    assert "Started the server" in deployment.run(*REMOTE)
    assert int(ask(deployment, "max_connect_errors")) == 900


def test_the_launcher_runs_with_what_the_script_printed(
    deployment: Deployment, tmp_path: Path
) -> None:
    assert deployment.url.query["ssl_mode"] == "REQUIRED"
    certificate = str(data_of(deployment) / "optuna-spark-cert.pem")
    url = deployment.url.update_query_dict({"ssl_mode": "VERIFY_IDENTITY", "ssl_ca": certificate})
    states = deployment.tune(tmp_path, url, trials=5)
    assert states.split() == ["COMPLETE"] * 5
