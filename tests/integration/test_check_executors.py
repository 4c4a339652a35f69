"""`optuna-spark check` with mistakes that executors alone have: as a command, on local-cluster."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests.environment import plain_environment
from tests.leaks import links_to_spark

# A clock that is five minutes slow.
SLOW_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <time.h>

int clock_gettime(clockid_t which, struct timespec *now) {
  int (*real)(clockid_t, struct timespec *) = dlsym(RTLD_NEXT, "clock_gettime");
  int code = real(which, now);
  if (which == CLOCK_REALTIME)
    now->tv_sec -= 300;
  return code;
}
"""


def failed(folder: Path, url: str, **env: str) -> dict[str, str]:
    """What the command says fails, by place and thing."""
    home = folder / "spark"
    if not home.exists():
        links_to_spark(home)
    done = subprocess.run(
        [sys.executable, "-m", "optuna_spark", "check", "--json"],
        cwd=folder,
        env={
            **plain_environment(),
            "HOME": str(folder),
            "OPTUNA_STORAGE": url.replace("mysql://", "mysql+pymysql://"),
            "PYSPARK_PYTHON": sys.executable,
            "PYSPARK_SUBMIT_ARGS": "--conf spark.executor.memory=512m pyspark-shell",
            "SPARK_HOME": str(home),
            "SPARK_LOCAL_IP": "127.0.0.1",
            "SPARK_MASTER": "local-cluster[2,1,1024]",
            **env,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    findings = json.loads(done.stdout)
    found = {
        f"{each['where']} {each['what']}": each["text"]
        for each in findings
        if each["verdict"] == "failed"
    }
    assert done.returncode == (1 if found else 0)
    assert not any("\n" in text for text in found.values())
    return found


def environment_without(folder: Path, *names: str) -> Path:
    """Make a Python environment with the packages of this one, but for some."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    [site] = folder.glob("lib/python3*/site-packages")
    for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(place).iterdir():
            link = site / path.name
            if not path.name.lower().startswith(names) and not link.exists():
                link.symlink_to(path)
    return site


def another_python(folder: Path) -> Path:
    """Make an environment like this one, whose Python says it is an earlier version."""
    site = environment_without(folder, "nothing")
    # No sitecustomize: Debian's Python has one of its own, which goes first.
    (site / "another_version.pth").write_text("import another_version\n")
    (site / "another_version.py").write_text(
        "import sys\n"
        "from collections import namedtuple\n"
        "parts = namedtuple('parts', 'major minor micro releaselevel serial')\n"
        "sys.version_info = parts(3, sys.version_info[1] - 1, 0, 'final', 0)\n"
    )
    return folder / "bin" / "python3"


def test_packages_that_executors_lack_or_have_otherwise(tmp_path: Path, mysql_url: str) -> None:
    names = ("pymysql", "mysqlclient", "mysqldb", "cloudpickle-")
    site = environment_without(tmp_path / "theirs", *names)
    (site / "cloudpickle-0.1.dist-info").mkdir()
    about = "Metadata-Version: 2.1\nName: cloudpickle\nVersion: 0.1\n"
    (site / "cloudpickle-0.1.dist-info" / "METADATA").write_text(about)
    theirs = str(tmp_path / "theirs" / "bin" / "python3")
    found = failed(tmp_path, mysql_url, PYSPARK_PYTHON=theirs)
    texts = {place.rpartition(" ")[2]: text for place, text in found.items()}
    assert all(place.startswith("executor ") for place in found), found
    ours = metadata.version("cloudpickle")
    assert texts.pop("cloudpickle").startswith(f"0.1, and the driver has {ours}: ship")
    assert texts.pop("PyMySQL").startswith("none, and the storage URL needs it: ship")
    assert texts == {}


def test_another_python(tmp_path: Path, mysql_url: str) -> None:
    other = another_python(tmp_path / "other")
    [(place, text)] = failed(tmp_path, mysql_url, PYSPARK_PYTHON=str(other)).items()
    assert place == "executors environment"
    assert text.startswith("Executors run Python 3.")
    assert f"and the driver {platform.python_version()}: ship" in text
    assert "set PYSPARK_PYTHON" in text


def test_a_python_without_the_package(tmp_path: Path, mysql_url: str) -> None:
    environment_without(tmp_path / "bare", "__editable__", "optuna_spark")
    bare = tmp_path / "bare" / "bin" / "python3"
    [(place, text)] = failed(tmp_path, mysql_url, PYSPARK_PYTHON=str(bare)).items()
    assert place == "executors environment"
    assert text.startswith(f"Executors run {bare}, which lacks optuna-spark: ship the driver's")
    assert "set PYSPARK_PYTHON" in text


def test_no_python_where_it_should_be(tmp_path: Path, mysql_url: str) -> None:
    [(place, text)] = failed(tmp_path, mysql_url, PYSPARK_PYTHON="/no/such/python").items()
    assert place == "executors environment"
    assert text.startswith("Executors have no Python at /no/such/python, which PYSPARK_PYTHON")


def test_a_clock_that_is_slow(tmp_path: Path, mysql_url: str) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    library = tmp_path / "slow.so"
    compile_it = [compiler, "-shared", "-fPIC", "-x", "c", "-", "-o", str(library), "-ldl"]
    subprocess.run(compile_it, input=SLOW_CLOCK, text=True, check=True)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nLD_PRELOAD={library} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    [(place, text)] = failed(tmp_path, mysql_url, PYSPARK_PYTHON=str(python)).items()
    assert place.startswith("executor ")
    assert place.endswith(" clock")
    seconds, _, remedy = text.partition(" s from the driver's: ")
    assert 290 <= int(seconds) <= 300
    assert remedy == "set both by NTP"


def test_a_database_on_this_host_for_executors_on_another(tmp_path: Path, mysql_url: str) -> None:
    """The other host has a name that Java alone knows, so that it is none of this one's."""
    (tmp_path / "hosts").write_text("127.0.0.1 localhost node-1\n")
    url = make_url(mysql_url).set(host="localhost").render_as_string(hide_password=False)
    options = f"-Djdk.net.hosts.file={tmp_path / 'hosts'}"
    env = {"JAVA_TOOL_OPTIONS": options, "SPARK_LOCAL_HOSTNAME": "node-1"}
    found = failed(tmp_path, url, **env)
    text = found.pop("executors storage")
    assert "names 'localhost', which on every executor is the executor itself" in text
    assert "executors run on other hosts (node-1): write the name of this host instead" in text
    assert found == {}
