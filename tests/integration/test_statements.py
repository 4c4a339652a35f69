"""What one warm trial costs in the database: statements and commits, as the server counts them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import optuna
import pytest

from optuna_spark import trial_task
from optuna_spark.addresses import find_address
from optuna_spark.ledger import Ledger
from optuna_spark.objectives import pickle_objective
from optuna_spark.settings import Limits
from optuna_spark.storage import close_storage, open_storage, study_snapshot
from tests.servers import DatabaseServer

WARM = 12  # trials before; the first ten of TPE are random

Sampler = optuna.samplers.BaseSampler


@pytest.fixture(autouse=True)
def _no_open_run() -> Iterator[None]:
    yield
    trial_task.close_run()
    trial_task._current = None


def objective(parameters: int, reports: int) -> Callable[[optuna.Trial], float]:
    def run(trial: optuna.Trial) -> float:
        total = sum(trial.suggest_float(f"x{i}", 0, 1) for i in range(parameters))
        for step in range(reports):
            trial.report(total, step)
            trial.should_prune()
        return total

    return run


def counters(server: DatabaseServer) -> dict[str, int]:
    rows = server.admin_sql(
        "SHOW GLOBAL STATUS WHERE Variable_name IN ('Questions', 'Com_commit', 'Bytes_sent')"
    )
    return {name: int(value) for name, value in rows}


def run_one(ledger: Ledger, run: trial_task.Run) -> None:
    ledger.refresh(())
    grant = trial_task.Grant(0, tuple(ledger.take(1)))
    payload = SimpleNamespace(value=run)
    [outcome] = trial_task.run_trials(payload, grant, lambda what, value: None)
    assert outcome.state is not None
    assert outcome.state.is_finished(), outcome.reason


@pytest.mark.parametrize(
    ("sampler", "parameters", "reports", "statements", "commits"),
    [
        pytest.param(optuna.samplers.TPESampler(), 0, 0, 16, 3, id="no parameter"),
        pytest.param(optuna.samplers.TPESampler(), 2, 0, 23, 5, id="two parameters"),
        pytest.param(optuna.samplers.TPESampler(), 20, 0, 59, 23, id="twenty parameters"),
        pytest.param(optuna.samplers.TPESampler(), 2, 5, 43, 10, id="five reports"),
        pytest.param(optuna.samplers.RandomSampler(), 2, 0, 20, 5, id="random"),
    ],
)
def test_a_warm_trial(
    mysql_server: DatabaseServer,
    mysql_url: str,
    sampler: Sampler,
    parameters: int,
    reports: int,
    statements: int,
    commits: int,
) -> None:
    address = find_address(mysql_url)
    storage = open_storage(address, create_schema=True)
    pruner = optuna.pruners.MedianPruner()
    study = optuna.create_study(study_name="s", storage=storage)
    function = objective(parameters, reports)
    body = pickle_objective((function, sampler, pruner, ()), function)
    run = trial_task.Run("run", address, "s", body)
    ledger = Ledger(storage, study._study_id, "run", Limits())
    for _ in range(WARM):
        run_one(ledger, run)
    before = counters(mysql_server)
    run_one(ledger, run)
    after = counters(mysql_server)
    close_storage(storage)
    cost = {name: after[name] - before[name] for name in ("Questions", "Com_commit")}
    # The counting itself is one statement.
    assert cost == {"Questions": statements + 1, "Com_commit": commits}


def test_a_cold_process_reads_no_trial_that_the_driver_has_read(
    mysql_server: DatabaseServer, mysql_url: str
) -> None:
    address = find_address(mysql_url)
    storage = open_storage(address, create_schema=True)
    study = optuna.create_study(study_name="s", storage=storage)
    space: dict[str, optuna.distributions.BaseDistribution] = {
        "x": optuna.distributions.FloatDistribution(0, 1)
    }
    for number in range(100):
        done = optuna.create_trial(
            params={"x": number / 100}, distributions=space, value=0.0, user_attrs={"a": "b" * 500}
        )
        study.add_trial(done)
    function = objective(1, 0)
    body = pickle_objective((function, optuna.samplers.TPESampler(), None, ()), function)
    ledger = Ledger(storage, study._study_id, "run", Limits())
    saved = {"Bytes_sent": 0, "Questions": 0}
    for snapshot, sign in ((None, 1), (study_snapshot(storage, study._study_id), -1)):
        run = trial_task.Run("run", address, "s", body, snapshot)
        before = counters(mysql_server)
        run_one(ledger, run)
        after = counters(mysql_server)
        for name in saved:
            saved[name] += sign * (after[name] - before[name])
        trial_task.close_run()
        trial_task._current = None
    close_storage(storage)
    assert saved["Bytes_sent"] > 100 * 500
    assert saved["Questions"] >= 5  # nor does it ask for the study
    assert len(study.trials) == 102
