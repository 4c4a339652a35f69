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
from optuna_spark.storage import close_storage, open_storage
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
        "SHOW GLOBAL STATUS WHERE Variable_name IN ('Questions', 'Com_commit')"
    )
    return {name: int(value) for name, value in rows}


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
    payload = SimpleNamespace(value=run)
    ledger = Ledger(storage, study._study_id, "run", Limits())

    def run_one() -> None:
        ledger.refresh(())
        grant = trial_task.Grant(0, tuple(ledger.take(1)))
        [outcome] = trial_task.run_trials(payload, grant, lambda what, value: None)
        assert outcome.state is not None
        assert outcome.state.is_finished(), outcome.reason

    for _ in range(WARM):
        run_one()
    before = counters(mysql_server)
    run_one()
    after = counters(mysql_server)
    close_storage(storage)
    cost = {name: after[name] - before[name] for name in before}
    # The counting itself is one statement.
    assert cost == {"Questions": statements + 1, "Com_commit": commits}
