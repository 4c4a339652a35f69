"""The launchers, run as a user runs them: as processes, on every kind of master."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from tests.cluster import StandaloneCluster
from tests.environment import plain_environment

ROOT = Path(__file__).parents[2]
LAUNCHER = ROOT / "scripts" / "run-optuna-spark.sh"
XGBOOST = ROOT / "scripts" / "run-optuna-spark-xgboost.sh"
SCRIPTS = Path(sysconfig.get_path("scripts"))

OBJECTIVE = """
import sys
import helper

def objective(trial):
    libraries = {line.split()[-1] for line in open("/proc/self/maps") if "libpython" in line}
    trial.set_user_attr("prefix", sys.prefix)
    trial.set_user_attr("libraries", sorted(libraries))
    return helper.square(trial.suggest_float("x", -10, 10))
"""


def run(command: list[str | Path], *, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command with only those of the launchers' variables that are given."""
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=plain_environment(**env),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an objective and a module of its own beside it."""
    (tmp_path / "tune.py").write_text(OBJECTIVE)
    (tmp_path / "helper.py").write_text("def square(x):\n    return x * x\n")
    return tmp_path


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PATH whose python3 has no packages."""
    bin_folder = tmp_path_factory.mktemp("bare") / "bin"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", bin_folder.parent], check=True)
    return bin_folder


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory, bare_python: Path
) -> Iterator[StandaloneCluster]:
    """Two Workers whose own Python has no Optuna."""
    path = f"{bare_python}{os.pathsep}{os.environ['PATH']}"
    with StandaloneCluster(tmp_path_factory.mktemp("cluster"), env={"PATH": path}) as started:
        yield started


def finished_trials(url: str, study_name: str) -> list[optuna.trial.FrozenTrial]:
    study = optuna.load_study(study_name=study_name, storage=url)
    assert all(trial.state.is_finished() for trial in study.trials)
    return study.trials


def processes(trials: list[optuna.trial.FrozenTrial]) -> set[int]:
    return {trial.system_attrs["optuna_spark:attempt"]["process"] for trial in trials}


def with_driver(url: str) -> str:
    """The URL for Optuna's own command line, which knows no PyMySQL behind mysql://."""
    return url.replace("mysql://", "mysql+pymysql://")


@pytest.mark.parametrize("master", ["local[2]", "local-cluster[2,1,1024]"])
def test_the_known_recipe(folder: Path, mysql_url: str, master: str) -> None:
    create = ["create-study", "--study-name", "s", "--storage", with_driver(mysql_url)]
    assert run([SCRIPTS / "optuna", *create], cwd=folder).returncode == 0

    command = [LAUNCHER, "tune.py:objective", "--study-name", "s", "--n-trials", "25"]
    env = {"OPTUNA_STORAGE": mysql_url, "SPARK_MASTER": master}
    result = run([*command, "--n-jobs", "2"], cwd=folder, **env)

    assert result.returncode == 0, result.stderr
    trials = finished_trials(with_driver(mysql_url), "s")
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 25
    assert len(processes(trials)) == 2
    best = ["best-trial", "--study-name", "s", "--storage", with_driver(mysql_url)]
    shown = run([SCRIPTS / "optuna", *best, "-f", "json"], cwd=folder)
    number = re.search(r"Best trial: (\d+)", result.stdout)
    assert number is not None, result.stdout
    assert f'"number": {number[1]},' in shown.stdout


def test_a_standalone_cluster_runs_what_was_packed(
    folder: Path, mysql_url: str, cluster: StandaloneCluster
) -> None:
    command = [LAUNCHER, "tune.py:objective", "--direction", "minimize", "--n-trials", "25"]
    env = {"OPTUNA_STORAGE": mysql_url, "SPARK_MASTER": cluster.url}
    result = run([*command, "--study-name", "s", "--n-jobs", "2"], cwd=folder, **env)

    assert result.returncode == 0, result.stderr
    trials = finished_trials(with_driver(mysql_url), "s")
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 25
    assert len(processes(trials)) == 2
    for trial in trials:
        places = [trial.user_attrs["prefix"], *trial.user_attrs["libraries"]]
        assert all(place.startswith(str(cluster.folder)) for place in places), places


def test_an_sqlite_file_is_refused_where_executors_are_elsewhere(folder: Path) -> None:
    # Executors of local-cluster have this host's own name; a made-up one must be refused.
    program = (
        "from optuna_spark.addresses import check_shared, find_address\n"
        "check_shared(find_address('sqlite:///study.db'), ['other-host'])"
    )
    result = run([sys.executable, "-c", program], cwd=folder)
    assert "is a file of this host, but executors run on other hosts" in result.stderr


@pytest.mark.parametrize(
    ("master", "options"),
    [
        ("yarn", "--queue research"),
        ("k8s://https://127.0.0.1:6443", "--conf spark.kubernetes.container.image=spark:4"),
    ],
)
def test_what_spark_submit_is_told(folder: Path, master: str, options: str) -> None:
    spark_home = folder / "spark"
    (spark_home / "bin").mkdir(parents=True)
    submit = spark_home / "bin" / "spark-submit"
    submit.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >{folder}/told\nexit 1\n')
    submit.chmod(0o755)
    archive = folder / "my env.tar.gz"
    archive.touch()
    result = run(
        [LAUNCHER, "tune.py:objective", "--n-trials", "1"],
        cwd=folder,
        SPARK_HOME=str(spark_home),
        SPARK_MASTER=master,
        SPARK_SUBMIT_ARGS=options,
        OPTUNA_SPARK_ARCHIVE=str(archive),
        OPTUNA_STORAGE=f"sqlite:///{folder}/study.db",
    )
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1, result.stderr
    told = (folder / "told").read_text().split("\n")
    expected = ["--master", master, "--archives", f"{archive}#environment", *options.split()]
    assert told[told.index("--master") : -1] == [*expected, "pyspark-shell"]


def test_a_storage_option_is_in_no_process_arguments(folder: Path) -> None:
    (folder / "tune.py").write_text(
        "from pathlib import Path\n"
        "def objective(trial):\n"
        "    lines = [path.read_bytes() for path in Path('/proc').glob('[0-9]*/cmdline')]\n"
        "    return float(any(b'study-7.db' in line for line in lines))\n"
    )
    command = [LAUNCHER, "tune.py:objective", "--study-name", "s", "--n-trials", "1"]
    url = f"sqlite:///{folder}/study-7.db"
    result = run([*command, "--direction", "minimize", f"--storage={url}"], cwd=folder)
    assert result.returncode == 0, result.stderr
    # The launcher itself was called with it, and its arguments are what exec leaves behind.
    assert finished_trials(url, "s")[0].value == 0.0


def test_xgboost_with_a_csv_file(folder: Path) -> None:
    lines = ["fixed;volatile;quality"]
    for i in range(300):
        a, b = (i * 37 % 100) / 10, (i * 53 % 71) / 7
        lines.append(f"{a};{b};{a * b + (i % 5) / 2}")
    (folder / "data.csv").write_text("\n".join(lines))
    result = run([XGBOOST, "--data", "data.csv", "--n-trials", "6"], cwd=folder)
    assert result.returncode == 0, result.stderr
    assert (folder / "xgboost-model" / "model.json").stat().st_size > 1000
    assert "tuned" in result.stdout


def test_a_fresh_clone_without_java(tmp_path: Path) -> None:
    """The first command of the README on a machine that has Python alone."""
    clone = tmp_path / "clone"
    listed = ["ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(
        ["git", *listed], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for name in names.rstrip("\0").split("\0"):
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, clone / name)
    few = _commands_without(tmp_path / "bin", ("java", "javac", "pkg-config", "cc"))
    link = tmp_path / "launcher"
    link.symlink_to(clone / "scripts" / "run-optuna-spark.sh")

    first = run([link, "--n-trials", "4"], cwd=tmp_path, PATH=str(few), JAVA_HOME="")
    assert first.returncode == 0, first.stderr
    assert "Setting up" in first.stderr
    assert "Best trial" in first.stdout
    url = f"sqlite:///{clone}/quickstart.db"
    assert f"The study is in {url}." in first.stdout
    report = clone / "quickstart.html"
    assert f"The report is in {report}." in first.stdout
    assert "Best trial" in report.read_text()
    assert len(finished_trials(url, "quickstart")) == 4

    second = run([link, "--total-trials", "6"], cwd=clone, PATH=str(few), JAVA_HOME="")
    assert second.returncode == 0, second.stderr
    assert "Setting up" not in second.stderr
    assert len(finished_trials(url, "quickstart")) == 6


def _commands_without(folder: Path, names: tuple[str, ...]) -> Path:
    """A folder for PATH with all commands of this machine but some."""
    folder.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        for command in Path(place).iterdir() if Path(place).is_dir() else ():
            link = folder / command.name
            if command.name not in names and not link.is_symlink():
                link.symlink_to(command)
    return folder
