"""Packed environments, on executors that have nothing else, and environments that are broken."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest

from optuna_spark.exceptions import PackingError
from optuna_spark.packing import environment_fingerprint, pack_environment
from tests import conda_env
from tests.cluster import StandaloneCluster
from tests.environment import plain_environment

ROOT = Path(__file__).resolve().parents[2]
SITE = f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"

# What a Python says about itself; `mapped` is all that it runs of files that may be a Python's.
LOOK = """
def look():
    import importlib.util, os, site, sqlite3, ssl, sys
    import borrowed, numpy, optuna, sqlalchemy
    optuna.logging.disable_default_handler()
    study = optuna.create_study(storage="sqlite://")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
    ours = importlib.util.find_spec("optuna_spark").origin
    maps = [line.split(None, 5)[-1].strip() for line in open("/proc/self/maps") if "/" in line]
    return {
        "prefix": sys.prefix,
        "base": sys.base_prefix,
        "program": os.path.realpath("/proc/self/exe"),
        "mapped": sorted({path for path in maps if "python" in path.lower()}),
        "modules": [ours] + [m.__file__ for m in (os, borrowed, numpy, optuna, sqlalchemy)],
        "borrowed": borrowed.WORD,
        "user": bool(site.ENABLE_USER_SITE),
        "trials": len(study.trials),
        "pid": os.getppid(),
    }
"""


@dataclass
class Packed:
    """An archive; the environment that it was made from, and its editable source, are gone."""

    archive: Path
    gone: Path


@pytest.fixture(scope="session", params=["venv", "conda"])
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    """An environment with Optuna and two editable packages, this project and another."""
    if request.param == "conda" and not conda_env.can_be_packaged():
        pytest.skip(f"the Python in {sys.base_prefix} has no folder of its own")
    folder = tmp_path_factory.mktemp(request.param)
    prefix = folder / "made"
    if request.param == "conda":
        conda_env.make_conda_environment(prefix, folder / "conda")
    else:
        venv.create(prefix, symlinks=True)
    other = folder / "made-too"
    (other / "src" / "borrowed").mkdir(parents=True)
    (other / "src" / "borrowed" / "__init__.py").write_text("WORD = 'taken along'\n")
    (other / "pyproject.toml").write_text(
        "[build-system]\nrequires = ['setuptools>=69']\nbuild-backend = 'setuptools.build_meta'\n"
        "[project]\nname = 'borrowed'\nversion = '1'\n"
    )
    pip(prefix, "optuna", "joblibspark", "PyMySQL[rsa]")
    pip(prefix, "--no-deps", "--editable", str(ROOT), "--editable", str(other))
    archive = pack_environment(folder / "env.tar.gz", prefix=prefix)
    for path in (prefix, other):
        path.rename(path.with_name(f"{path.name}.away"))
    return Packed(archive, prefix)


def pip(prefix: Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(prefix / "bin" / "python"), "install"]
    subprocess.run([*command, "--quiet", *arguments], check=True)


def unpack(archive: Path, folder: Path) -> Path:
    """Does what Spark does."""
    folder.mkdir()
    subprocess.run(["tar", "-xzf", str(archive), "-C", str(folder)], check=True)
    return folder


def assert_all_within(seen: dict[str, Any], folder: Path) -> None:
    for name in ("prefix", "base", "program"):
        assert Path(seen[name]).resolve().is_relative_to(folder), (name, seen)
    for path in (*seen["mapped"], *seen["modules"]):
        assert Path(path).resolve().is_relative_to(folder), (path, seen)
    assert seen["mapped"]
    assert seen["borrowed"] == "taken along"
    assert seen["trials"] == 2
    assert not seen["user"]  # a numpy in ~/.local would win over the packed one


def test_unpacked_environment_needs_nothing_of_the_one_it_was(
    packed: Packed, tmp_path: Path
) -> None:
    folder = unpack(packed.archive, tmp_path / "environment")
    done = subprocess.run(
        [folder / "bin" / "python", "-c", f"{LOOK}\nimport json; print(json.dumps(look()))"],
        check=True,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    )
    assert not packed.gone.exists()
    assert_all_within(json.loads(done.stdout), folder.resolve())


def test_leaves_out_what_executors_have_or_do_not_need(packed: Packed, tmp_path: Path) -> None:
    folder = unpack(packed.archive, tmp_path / "environment")
    for name in ("pyspark", "py4j", "pip"):
        assert not list(folder.glob(f"lib/python3.*/site-packages/{name}*"))
    assert not list(folder.rglob("__pycache__"))
    assert not list(folder.rglob("*.a"))
    assert packed.archive.stat().st_mode & 0o777 == 0o644


DRIVER = """
import json, sys, time
from pyspark.sql import SparkSession

spark = (
    SparkSession.builder.master(sys.argv[1])
    .config("spark.archives", sys.argv[2] + "#environment")
    .config("spark.executor.memory", "512m")
    .config("spark.scheduler.minRegisteredResourcesRatio", "1.0")
    .config("spark.scheduler.maxRegisteredResourcesWaitingTime", "60s")
    .config("spark.driver.host", "127.0.0.1")
    .config("spark.ui.enabled", "false")
    .getOrCreate()
)
seen = spark.sparkContext.parallelize(range(2), 2).map(
    lambda _: (time.sleep(1), look())[1]  # so that one executor does not get both
)
with open(sys.argv[3], "w") as file:
    json.dump(seen.collect(), file)
spark.stop()
"""


@pytest.fixture(scope="session")
def bare_cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandaloneCluster]:
    """Two Workers whose python3 has no packages at all."""
    bare = tmp_path_factory.mktemp("bare")
    venv.create(bare, symlinks=True)
    found = subprocess.run([bare / "bin" / "python3", "-c", "import optuna"], capture_output=True)
    assert b"ModuleNotFoundError" in found.stderr
    path = {"PATH": f"{bare / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    folder = tmp_path_factory.mktemp("cluster").resolve()
    with StandaloneCluster(folder, workers=2, cores=1, env=path) as cluster:
        yield cluster


def test_executors_run_the_archive_alone(
    packed: Packed, bare_cluster: StandaloneCluster, tmp_path: Path
) -> None:
    program, answers = tmp_path / "driver.py", tmp_path / "answers.json"
    program.write_text(LOOK + DRIVER)
    subprocess.run(
        [sys.executable, program, bare_cluster.url, packed.archive, answers],
        check=True,
        env=plain_environment(PYSPARK_PYTHON="./environment/bin/python"),
    )
    seen = json.loads(answers.read_text())
    assert len({answer["pid"] for answer in seen}) == 2
    for answer in seen:
        unpacked = Path(answer["prefix"]).resolve()
        assert unpacked.name == "environment"
        assert unpacked.is_relative_to(bare_cluster.folder)
        assert_all_within(answer, unpacked)


def test_the_launcher_finishes_a_study_with_the_archive(
    packed: Packed, bare_cluster: StandaloneCluster, mysql_url: str, tmp_path: Path
) -> None:
    (tmp_path / "tune.py").write_text(
        "import sys\n"
        "DIRECTION = 'minimize'\n"
        "def objective(trial):\n"
        "    maps = open('/proc/self/maps').read().splitlines()\n"
        "    mapped = {line.split()[-1] for line in maps if 'libpython' in line}\n"
        "    trial.set_user_attr('places', [sys.prefix, *mapped])\n"
        "    return trial.suggest_float('x', -1, 1) ** 2\n"
    )
    command = [ROOT / "scripts" / "run-optuna-spark.sh", "tune.py:objective", "--n-jobs", "2"]
    settings = {
        "OPTUNA_SPARK_ARCHIVE": str(packed.archive),
        "OPTUNA_STORAGE": mysql_url,
        "SPARK_MASTER": bare_cluster.url,
    }
    done = subprocess.run(
        [*command, "--study-name", "s", "--n-trials", "12"],
        cwd=tmp_path,
        env=plain_environment(**settings),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    url = mysql_url.replace("mysql://", "mysql+pymysql://")
    trials = optuna.load_study(study_name="s", storage=url).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 12
    for place in (place for trial in trials for place in trial.user_attrs["places"]):
        assert Path(place).resolve().is_relative_to(bare_cluster.folder), place


@pytest.fixture
def environment(tmp_path: Path) -> Path:
    """A venv without packages."""
    prefix = tmp_path / "environment"
    venv.create(prefix, symlinks=True)
    return prefix


def install_editable(prefix: Path, name: str, hook: str, **files: str) -> None:
    """Leave what pip leaves behind for an editable package whose .pth file has one line."""
    site = prefix / SITE
    info = site / f"{name}-1.dist-info"
    info.mkdir()
    written = {f"__editable__.{name}-1.pth": f"{hook}\n", **files}
    for file, text in written.items():
        (site / file).write_text(text)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    (info / "RECORD").write_text("".join(f"{file},,\n" for file in written))
    address = {"url": f"file:///{name}", "dir_info": {"editable": True}}
    (info / "direct_url.json").write_text(json.dumps(address))


def refusal(tmp_path: Path, prefix: Path) -> str:
    """Pack what cannot be packed; returns the error's message, which must be one sentence."""
    output = tmp_path / "env.tar.gz"
    output.write_text("the archive before")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(PackingError) as error:
        pack_environment(output, prefix=prefix)
    assert output.read_text() == "the archive before"
    assert sorted(tmp_path.iterdir()) == before
    message = str(error.value)
    assert message.endswith(".")
    assert "\n" not in message
    return message


def test_names_an_editable_package_whose_source_is_gone(environment: Path, tmp_path: Path) -> None:
    install_editable(environment, "lost", str(tmp_path / "nowhere" / "src"))
    assert refusal(tmp_path, environment) == (
        f"lost is installed editable but its source {tmp_path}/nowhere/src is gone: "
        "install it again, or uninstall it."
    )


def test_names_a_module_that_an_import_hook_no_longer_finds(
    environment: Path, tmp_path: Path
) -> None:
    finder = "__editable___lost_1_finder"
    text = f"MAPPING: dict[str, str] = {{'lost': '{tmp_path}/nowhere/lost'}}\n"
    hook = f"import {finder}; {finder}.install()"
    install_editable(environment, "lost", hook, **{f"{finder}.py": text})
    assert f"lost is installed editable but its source {tmp_path}/nowhere/lost is gone" in refusal(
        tmp_path, environment
    )


def test_names_an_editable_package_that_only_its_build_tool_understands(
    environment: Path, tmp_path: Path
) -> None:
    install_editable(environment, "strange", "import _strange_editable_loader")
    assert refusal(tmp_path, environment) == (
        "strange is installed editable in a way that cannot be packed: "
        "install it without --editable."
    )


def test_asks_for_conda_pack(
    environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (environment / "conda-meta").mkdir()
    monkeypatch.setitem(sys.modules, "conda_pack", None)
    assert "pip install 'optuna-spark[pack]'" in refusal(tmp_path, environment)


def test_passes_on_why_conda_pack_refuses(environment: Path, tmp_path: Path) -> None:
    (environment / "conda-meta").mkdir()
    for version in ("3.11.1", "3.11.2"):
        record = {"name": "python", "version": version, "link": None, "files": []}
        (environment / "conda-meta" / f"python-{version}.json").write_text(json.dumps(record))
    assert "multiple versions of python" in refusal(tmp_path, environment)


def test_refuses_a_folder_without_python(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path}/empty cannot be packed" in refusal(tmp_path, tmp_path / "empty")


def test_refuses_an_environment_whose_python_was_removed(
    environment: Path, tmp_path: Path
) -> None:
    for program in (environment / "bin").glob("python*"):
        program.unlink()
        program.symlink_to(tmp_path / "removed" / program.name)
    assert "no bin/python3 that runs" in refusal(tmp_path, environment)


def test_says_which_archive_cannot_be_written(environment: Path, tmp_path: Path) -> None:
    with pytest.raises(PackingError, match="nowhere"):
        pack_environment(tmp_path / "nowhere" / "env.tar.gz", prefix=environment)


@pytest.mark.parametrize("layout", ["src", "flat", "module", "namespace"])
def test_takes_along_what_a_path_points_to(layout: str, environment: Path, tmp_path: Path) -> None:
    source = tmp_path / "project"
    wanted = {
        "src": "mine/data.txt",
        "flat": "mine/data.txt",
        "module": "mine.py",
        "namespace": "mine/part/data.txt",
    }[layout]
    code = {"module": "mine.py", "namespace": "mine/part/__init__.py"}
    for name in {wanted, code.get(layout, "mine/__init__.py"), "data/large.csv", ".git/config"}:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text("text = 'mine'\n")
    install_editable(environment, "mine", str(source))
    archive = pack_environment(tmp_path / "env.tar.gz", prefix=environment)
    shutil.rmtree(source)
    folder = unpack(archive, tmp_path / "unpacked")
    [found] = folder.rglob(wanted)
    assert found.read_text() == "text = 'mine'\n"
    assert not list(folder.rglob("large.csv")) + list(folder.rglob(".git"))
    module = "mine.part" if layout == "namespace" else "mine"
    code = f"import {module} as mine; print(mine.text)"
    run = [folder / "bin" / "python", "-c", code]
    assert subprocess.run(run, check=True, capture_output=True).stdout == b"mine\n"


def test_takes_along_the_packages_of_the_system_where_a_venv_sees_them(
    environment: Path, tmp_path: Path
) -> None:
    # An interpreter whose own packages a test may write to.
    base = unpack(
        pack_environment(tmp_path / "base.tar.gz", prefix=environment), tmp_path / "base"
    )
    ask = [base / "bin" / "python", "-c", "import site; print(site.getsitepackages()[-1])"]
    base_site = Path(
        subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip()
    )
    base_site.mkdir(exist_ok=True)
    for name in ("alone", "shared"):
        (base_site / f"{name}.py").write_text("WHERE = 'system'\n")
    (base_site / "hook.pth").write_text("import sys; sys.hooked = True\n")
    inner = tmp_path / "inner"
    options = ["-m", "venv", "--without-pip", "--system-site-packages"]
    subprocess.run([base / "bin" / "python", *options, inner], check=True)
    (inner / SITE / "shared.py").write_text("WHERE = 'venv'\n")

    archive = pack_environment(tmp_path / "env.tar.gz", prefix=inner)
    shutil.rmtree(base)
    folder = unpack(archive, tmp_path / "unpacked")
    code = "import sys, alone, shared; print(alone.WHERE, shared.WHERE, sys.hooked)"
    done = subprocess.run([folder / "bin" / "python", "-c", code], check=True, capture_output=True)
    assert done.stdout == b"system venv True\n"


def test_packs_the_same_bytes_again(environment: Path, tmp_path: Path) -> None:
    first = pack_environment(tmp_path / "1.tar.gz", prefix=environment)
    again = pack_environment(tmp_path / "2.tar.gz", prefix=environment)
    assert first.read_bytes() == again.read_bytes()


def test_fingerprint_changes_with_what_is_installed_and_only_then(
    environment: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source" / "mine.py"
    source.parent.mkdir()
    source.write_text("")
    install_editable(environment, "mine", str(source.parent))
    package = environment / SITE / "other"
    package.mkdir()
    (package / "__init__.py").write_text("")

    seen = [environment_fingerprint(environment)]
    (package / "__pycache__").mkdir()  # as an import leaves it
    assert environment_fingerprint(environment) == seen[0]

    source.write_text("changed = True\n")
    seen.append(environment_fingerprint(environment))
    (environment / SITE / "new-1.dist-info").mkdir()
    seen.append(environment_fingerprint(environment))
    (environment / SITE / "new-1.dist-info").rename(environment / SITE / "new-2.dist-info")
    seen.append(environment_fingerprint(environment))
    assert len(set(seen)) == 4
