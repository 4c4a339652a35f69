"""The files for Docker and Kubernetes, as far as they can be tried without an engine."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml

from tests.servers import DatabaseServer, start_mysql

FOLDER = Path(__file__).parents[2] / "deploy" / "mysql"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICE, STATEFUL_SET = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
DOCKER: dict[str, Any] = COMPOSE["services"]["mysql"]
POD: dict[str, Any] = STATEFUL_SET["spec"]["template"]["spec"]
CONTAINER: dict[str, Any] = POD["containers"][0]
KUBERNETES_ENVIRONMENT = {entry["name"]: entry["value"] for entry in CONTAINER["env"]}


def test_both_run_the_same_server() -> None:
    assert DOCKER["image"] == CONTAINER["image"]
    assert DOCKER["command"] == CONTAINER["args"]
    assert DOCKER["environment"].keys() == KUBERNETES_ENVIRONMENT.keys()


@pytest.mark.parametrize(
    ("slots", "connections", "buffer_pool", "errors"),
    [
        (1, 29, "256M", 100),
        (64, 92, "256M", 100),
        (272, 300, "512M", 272),
        (5000, 5028, "1024M", 5000),
    ],
)
def test_the_script_sizes_a_server_for_its_slots(
    slots: int, connections: int, buffer_pool: str, errors: int
) -> None:
    show = 'source settings.sh; show() { echo "$1=$2"; }; each_setting show'
    command = ["bash", "-euc", f"slots={slots}; {show}"]
    lines = subprocess.run(command, cwd=FOLDER, check=True, stdout=subprocess.PIPE, text=True)
    assert lines.stdout.split() == [
        f"max_connections={connections}",
        f"innodb_buffer_pool_size={buffer_pool}",
        "wait_timeout=28800",
        f"max_connect_errors={errors}",
    ]


def test_docker_has_the_sizes_that_the_readme_tells() -> None:
    assert "for\n272 task slots" in (FOLDER / "README.md").read_text()
    assert {"--max-connections=300", "--innodb-buffer-pool-size=512M"} <= {
        option.partition(" ")[0] for option in DOCKER["command"]
    }


@pytest.mark.parametrize("environment", [DOCKER["environment"], KUBERNETES_ENVIRONMENT])
def test_passwords_come_from_files(environment: dict[str, str]) -> None:
    secret = {name: value for name, value in environment.items() if "PASSWORD" in name}
    assert secret
    assert all(name.endswith("_FILE") for name in secret)
    assert all(value.startswith("/run/secrets/") for value in secret.values())


def test_each_file_of_docker_is_a_secret() -> None:
    files = [value for name, value in DOCKER["environment"].items() if name.endswith("_FILE")]
    assert {Path(file).name for file in files} == set(DOCKER["secrets"]) == set(COMPOSE["secrets"])


def test_the_names_of_kubernetes_fit() -> None:
    labels = STATEFUL_SET["spec"]["template"]["metadata"]["labels"]
    assert SERVICE["spec"]["selector"] == labels
    assert STATEFUL_SET["spec"]["selector"]["matchLabels"] == labels
    assert STATEFUL_SET["spec"]["serviceName"] == SERVICE["metadata"]["name"]
    claims = {claim["metadata"]["name"] for claim in STATEFUL_SET["spec"]["volumeClaimTemplates"]}
    volumes = {volume["name"] for volume in POD["volumes"]}
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == claims | volumes


@pytest.fixture
def server(tmp_path: Path) -> DatabaseServer:
    return start_mysql(tmp_path, options=DOCKER["command"])


def test_a_server_with_these_options_keeps_a_and_A_apart(server: DatabaseServer) -> None:  # noqa: N802
    try:
        # As the image does: no collation is named.
        server.admin_sql(
            "CREATE DATABASE optuna; CREATE USER optuna@'%' IDENTIFIED BY 'x';"
            "GRANT ALL ON optuna.* TO optuna@'%'"
        )
        url = f"mysql+pymysql://optuna:x@127.0.0.1:{server.port}/optuna"
        storage = optuna.storages.RDBStorage(f"{url}?ssl_verify_cert=false")
        study = optuna.create_study(storage=storage)
        study.optimize(lambda t: t.suggest_float("a", 0, 1) + t.suggest_float("A", 2, 3), 1)
        assert set(study.trials[0].params) == {"a", "A"}
        storage.engine.dispose()
        plain = optuna.storages.RDBStorage
        with pytest.raises(Exception, match="insecure transport"):
            plain(url, engine_kwargs={"connect_args": {"ssl_disabled": True}})
    finally:
        server.stop()
