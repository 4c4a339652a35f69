"""`optuna-spark report` on real servers, for one who may only read."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import optuna
from sqlalchemy.engine import make_url

import optuna_spark
from optuna_spark.storage import close_storage
from tests.servers import DatabaseServer


def test_a_report_for_one_who_may_only_read(
    database_server: DatabaseServer, tmp_path: Path
) -> None:
    url = database_server.create_database()
    study = optuna_spark.create_study(study_name="wine", storage=url)
    study.add_trial(optuna.trial.create_trial(value=0.5))
    close_storage(study._storage)
    name, password = f"u{secrets.token_hex(6)}", secrets.token_urlsafe(12)
    account = f"{name}@'127.0.0.1'"
    database_server.admin_sql(f"CREATE USER {account} IDENTIFIED BY '{password}'")
    database_server.admin_sql(f"GRANT SELECT ON {make_url(url).database}.* TO {account}")
    reader = make_url(url).set(username=name, password=password)

    def report(study_name: str) -> subprocess.CompletedProcess[str]:
        root = str(Path(optuna_spark.__file__).parents[1])
        place = {"OPTUNA_STORAGE": reader.render_as_string(hide_password=False)}
        return subprocess.run(
            [sys.executable, "-m", "optuna_spark", "report", "--study-name", study_name],
            cwd=tmp_path,
            env={**os.environ, **place, "PYTHONPATH": root, "JAVA_HOME": "/nowhere"},
            capture_output=True,
            text=True,
        )

    done, missing = report("wine"), report("none")
    assert (done.returncode, done.stderr) == (0, "")
    text = (tmp_path / "wine.html").read_text(encoding="utf-8")
    assert "Best trial: 0" in text
    assert f"{name}:***@127.0.0.1" in text
    assert missing.returncode == 1
    assert "There is no study named 'none' in mysql" in missing.stderr
    assert password not in text + done.stdout + missing.stderr
