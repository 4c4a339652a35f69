"""deploy/mysql/setup.sh as a process: on a server that it starts, and on servers that run."""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import optuna
import pymysql
import pytest

from tests.deployments import (
    DATABASE,
    NEIGHBOUR,
    RIGHTS,
    SETUP,
    USER,
    Deployment,
    folder_for_mysql,
    private_server,
    recording_client,
    run_setup,
    stop_private_server,
)
from tests.servers import DatabaseServer


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    with folder_for_mysql() as path:
        yield path


@pytest.fixture(scope="module", params=["private", "mysql", "mariadb"])
def deployment(request: pytest.FixtureRequest, folder: Path) -> Iterator[Deployment]:
    """The script's first run: on a server of its own, or on one that runs already."""
    work = folder / request.param
    work.mkdir(mode=0o755)
    option_file, log = work / "made" / "mysql.cnf", work / "arguments.log"
    common = ["--database", DATABASE, "--user", USER, "--option-file", str(option_file)]
    made = Deployment(common, option_file, log, recording_client(work), lambda sql: "")
    with contextlib.ExitStack() as cleanup:
        if request.param == "private":
            private_server(made, work)
            cleanup.callback(stop_private_server, work / "data")
        else:
            server: DatabaseServer = request.getfixturevalue(f"{request.param}_server")
            running_server(made, work, server)
            cleanup.callback(
                server.admin_sql,
                f"DROP USER {USER}@localhost, {USER}@'127.0.0.1', admin@'127.0.0.1';"
                f"DROP DATABASE {DATABASE}",
            )
        made.output = made.run()
        if not log.exists():  # the client came with the server
            made.environment.update(recording_client(work))
            made.run()
        yield made


def running_server(made: Deployment, work: Path, server: DatabaseServer) -> None:
    if not shutil.which("mysql") and not shutil.which("mariadb"):
        pytest.skip("no mysql or mariadb client is here")
    password, admin_file = secrets.token_hex(12), work / "admin.cnf"
    admin_file.touch(mode=0o600)
    admin_file.write_text(f"[client]\nuser=admin\npassword={password}\n")
    server.admin_sql(
        f"CREATE USER admin@'127.0.0.1' IDENTIFIED BY '{password}';"
        "GRANT ALL ON *.* TO admin@'127.0.0.1' WITH GRANT OPTION"
    )
    made.options += ["--admin-option-file", str(admin_file), "--port", str(server.port)]
    made.admin_sql = lambda sql: str(server.admin_sql(sql))


def test_a_server_that_runs_keeps_its_settings(deployment: Deployment) -> None:
    if "--admin-option-file" not in deployment.options:
        pytest.skip("the script may set this server")
    asked = "SELECT @@max_connections, @@innodb_buffer_pool_size, @@wait_timeout"
    before = deployment.admin_sql(asked)
    notes = [line for line in deployment.run("--slots", "400").splitlines() if "Note" in line]
    settings = ["max_connections", "innodb_buffer_pool_size", "max_connect_errors"]
    assert [line.split()[1] for line in notes] == settings
    assert "too little for 400 task slots: set it to 428 in the server's" in notes[0]
    assert deployment.admin_sql(asked) == before
    assert "max_connections" not in deployment.run("--slots", "123")


def test_second_run_changes_nothing(deployment: Deployment) -> None:
    before = deployment.state()
    second = deployment.run()
    assert deployment.state() == before
    said = [line for line in second.splitlines() if not line.startswith("Note: ")]
    assert said == ["Nothing to change.", *deployment.output.splitlines()[-1:]]


def test_password_is_in_the_option_file_alone(deployment: Deployment) -> None:
    assert len(deployment.password) >= 32
    assert stat.S_IMODE(deployment.option_file.stat().st_mode) == 0o600
    assert [path.name for path in deployment.option_file.parent.iterdir()] == ["mysql.cnf"]
    assert deployment.password not in deployment.output
    assert "--batch" in deployment.arguments_log.read_text()
    assert deployment.password not in deployment.arguments_log.read_text()


def test_account_has_optunas_rights_on_one_database(deployment: Deployment) -> None:
    granted = deployment.admin_sql(f"SHOW GRANTS FOR {USER}@localhost")
    assert granted.count("GRANT") == 2
    assert f"GRANT {RIGHTS} ON `deploy" in granted
    deployment.admin_sql(f"CREATE DATABASE {NEIGHBOUR}")
    try:
        with deployment.connect() as connection, connection.cursor() as cursor:
            cursor.execute("SHOW DATABASES")
            databases = {name for (name,) in cursor.fetchall()}
            assert databases - {"information_schema", "performance_schema"} == {DATABASE}
            for sql in ("SELECT * FROM mysql.user", f"CREATE TABLE {NEIGHBOUR}.t (x INT)"):
                with pytest.raises(pymysql.OperationalError, match="denied"):
                    cursor.execute(sql)
        with pytest.raises(pymysql.OperationalError, match="Access denied"):
            deployment.connect(NEIGHBOUR)
    finally:
        deployment.admin_sql(f"DROP DATABASE {NEIGHBOUR}")


def test_optuna_keeps_parameters_that_differ_in_case(deployment: Deployment) -> None:
    storage = optuna.storages.RDBStorage(
        deployment.url.set(drivername="mysql+pymysql").render_as_string(hide_password=False)
    )
    study = optuna.create_study(storage=storage, study_name="case")
    study.optimize(
        lambda trial: trial.suggest_float("a", 0, 1) + trial.suggest_float("A", 2, 3), n_trials=2
    )
    for trial in optuna.load_study(storage=storage, study_name="case").trials:
        assert set(trial.params) == {"a", "A"}
        assert trial.params["a"] <= 1 < 2 <= trial.params["A"]
    optuna.delete_study(storage=storage, study_name="case")
    storage.engine.dispose()


def test_lost_option_file_gives_a_new_password(deployment: Deployment) -> None:
    lost = deployment.password
    deployment.option_file.unlink()
    assert "it has the new password now" in deployment.run()
    assert deployment.password != lost
    deployment.connect().close()


def test_wrong_password_and_wrong_rights_are_put_right(deployment: Deployment) -> None:
    deployment.admin_sql(f"ALTER USER {USER}@'127.0.0.1' IDENTIFIED BY 'other-Pass-1'")
    deployment.admin_sql(f"ALTER USER {USER}@localhost IDENTIFIED BY 'other-Pass-1'")
    where = "`deploy\\_test`.*"
    deployment.admin_sql(f"REVOKE ALTER ON {where} FROM {USER}@localhost")
    deployment.admin_sql(f"GRANT DROP ON {where} TO {USER}@'127.0.0.1' WITH GRANT OPTION")
    output = deployment.run()
    assert "had another password" in output
    assert output.count(f"Gave {USER}@") == 2
    assert "Nothing to change." in deployment.run()


def test_case_insensitive_tables_are_refused(deployment: Deployment) -> None:
    deployment.admin_sql("CREATE DATABASE old COLLATE utf8mb4_general_ci")
    deployment.admin_sql("CREATE TABLE old.t (name VARCHAR(9))")
    try:
        done = run_setup(*deployment.options, "--database", "old", **deployment.environment)
    finally:
        deployment.admin_sql("DROP DATABASE old")
    assert (done.returncode, done.stdout.count("\n")) == (1, 1)
    assert "take a and A for one name" in done.stdout


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--bogus"], "unknown option --bogus"),
        (["--user"], "--user needs a value"),
        (["--database", "a`b"], "--database takes letters"),
        (["--server", "db.example.com"], "--server needs --admin-option-file"),
        (["--admin-option-file", "/dev/null", "--server", "db.example.com"], "--host is needed"),
        (["--slots", "0"], "--slots takes a number"),
        (["--admin-option-file", "/dev/null", "--option-file", "/a b"], "not /a b"),
        (["--admin-option-file", "/dev/null", "--bind-address", "0.0.0.0"], "of this machine"),
    ],
)
def test_wrong_use_is_one_sentence(options: list[str], says: str) -> None:
    done = run_setup(*options)
    assert (done.returncode, done.stdout.count("\n")) == (2, 1)
    assert says in done.stdout


def test_help_names_every_option() -> None:
    text = run_setup("--help").stdout
    options = re.findall(r"^    (--[\w-]+)\) option=", SETUP.read_text(), re.MULTILINE)
    assert len(options) >= 10
    assert [option for option in options if f"\n  {option} " not in text] == []


def test_the_launcher_runs_with_what_the_script_printed(
    deployment: Deployment, tmp_path: Path
) -> None:
    states = deployment.tune(tmp_path, deployment.url, trials=6)
    assert str(states).count("COMPLETE") >= 6
    before = deployment.state()
    assert "Nothing to change." in deployment.run()
    assert deployment.state() == before
