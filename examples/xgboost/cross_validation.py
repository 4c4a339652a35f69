"""The objective: how well XGBoost's parameters do in cross-validation. Runs on executors."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import pandas as pd
import xgboost as xgb
from csv_data import Table

DEFAULT_ROUNDS = 100  # XGBRegressor's and XGBClassifier's own n_estimators
MAX_ROUNDS = 1000
# What XGBoost takes when told nothing; a log scale cannot hold the 0 of the last two.
DEFAULTS = {
    "learning_rate": 0.3,
    "max_depth": 6,
    "min_child_weight": 1.0,
    "subsample": 1.0,
    "colsample_bytree": 1.0,
    "reg_lambda": 1.0,
    "reg_alpha": 1e-3,
    "gamma": 1e-3,
}
# Slower and more random: where tuning by hand usually ends, and a better place to search from.
PRACTICE = DEFAULTS | {
    "learning_rate": 0.05,
    "min_child_weight": 2.0,
    "subsample": 0.75,
    "colsample_bytree": 0.6,
}


def suggest_params(trial: optuna.trial.BaseTrial, scale: float) -> dict[str, Any]:
    """Ask the trial for XGBoost's parameters.

    Args:
        trial: The trial.
        scale: Standard deviation of a regression's target, else 1. ``gamma`` is in units of the
            loss and ``reg_alpha`` in units of its gradient: scaled, one range fits every target.
    """
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.03, 0.3, log=True),
        "max_depth": trial.suggest_int("max_depth", 2, 9),
        "min_child_weight": trial.suggest_float("min_child_weight", 0.3, 30, log=True),
        "subsample": trial.suggest_float("subsample", 0.5, 1.0),
        "colsample_bytree": trial.suggest_float("colsample_bytree", 0.3, 1.0),
        "reg_lambda": trial.suggest_float("reg_lambda", 0.01, 100, log=True),
        "reg_alpha": trial.suggest_float("reg_alpha", 1e-3, 10, log=True) * scale,
        "gamma": trial.suggest_float("gamma", 1e-3, 10, log=True) * scale**2,
    }


def assign_folds(target: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Give each row one of `n_folds` folds, so that all folds hold the same mix of targets.

    Rows sorted by target are dealt out in blocks of `n_folds`. That balances classes, rare ones
    included, as well as quantities.
    """
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(len(target)), target))
    blocks = np.tile(np.arange(n_folds), (len(target) // n_folds + 1, 1))
    folds = np.empty(len(target), dtype=int)
    folds[order] = rng.permuted(blocks, axis=1).ravel()[: len(target)]
    return folds


def train(
    params: dict[str, Any],
    rounds: int,
    table: tuple[pd.DataFrame, np.ndarray],
    valid: np.ndarray | None = None,
    patience: int | None = None,
) -> tuple[xgb.Booster, list[float]]:
    """Train on all rows but `valid`, a mask, and score the `valid` ones after each round.

    With `patience`, stop after so many rounds without a better score.
    """
    features, target = table
    learn = np.ones(len(target), dtype=bool) if valid is None else ~valid
    scored = learn if valid is None else valid
    data, evaluation = (
        xgb.DMatrix(features[rows], target[rows], enable_categorical=True)
        for rows in (learn, scored)
    )
    scores: dict[str, dict[str, list[float]]] = {}
    # One thread for one task slot; Spark sets OMP_NUM_THREADS to the cores of a task.
    threads = int(os.environ.get("OMP_NUM_THREADS", "1").split(",")[0])
    booster = xgb.train(
        params | {"nthread": threads},
        data,
        rounds,
        evals=[(evaluation, "valid")],
        evals_result=scores,
        early_stopping_rounds=patience,
        verbose_eval=False,
    )
    return booster, scores["valid"][params["eval_metric"]]


@dataclass(frozen=True)
class CrossValidation:
    """The objective: mean score over the folds, at the number of rounds that is best for it.

    The rows travel with it, because executors on other hosts do not see the driver's file. It is
    pickled once for a run and unpickled once in each Python worker process, so a trial reads
    nothing.
    """

    features: pd.DataFrame
    target: np.ndarray
    base: dict[str, Any]  # XGBoost's objective and metric, which are not tuned
    scale: float
    n_folds: int
    seed: int

    def __call__(self, trial: optuna.Trial) -> float:
        params = self.base | suggest_params(trial, self.scale)
        patience = 10 + round(2 / params["learning_rate"])
        curves: list[list[float]] = []
        folds = assign_folds(self.target, self.n_folds, self.seed)
        for fold in range(self.n_folds):
            table = (self.features, self.target)
            _, curve = train(params, MAX_ROUNDS, table, folds == fold, patience)
            trial.report(min(curve), step=fold)
            curves.append(curve)
            if trial.should_prune():
                raise optuna.TrialPruned
        # The best round of each fold would be too good to be true; the best round of the mean of
        # all folds is one that the final model can use.
        shortest = min(map(len, curves))
        mean = np.mean([curve[:shortest] for curve in curves], axis=0)
        trial.set_user_attr("rounds", int(mean.argmin()) + 1)
        return float(mean.min())


def make_objective(table: Table, rows: np.ndarray, seed: int) -> CrossValidation:
    """Build the objective that tunes on `rows`, a mask, of the table."""
    base: dict[str, Any] = {"seed": seed}
    scale = 1.0
    if table.task == "regression":
        base |= {"objective": "reg:squarederror", "eval_metric": "rmse"}
        scale = float(table.target[rows].std()) or 1.0
    elif len(table.classes) == 2:
        base |= {"objective": "binary:logistic", "eval_metric": "logloss"}
    else:
        base |= {"objective": "multi:softprob", "eval_metric": "mlogloss"}
        base["num_class"] = len(table.classes)
    features, target = table.features[rows], table.target[rows]
    # Of few rows, a model misses each one that its fold holds back; and a fold is quick.
    n_folds = 10 if len(target) < 5000 else 5
    return CrossValidation(features, target, base, scale, n_folds, seed)


def make_sampler_and_pruner(
    seed: int,
) -> tuple[optuna.samplers.TPESampler, optuna.pruners.WilcoxonPruner]:
    """TPE over all parameters together; a pruner that compares with the best trial by fold."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler = optuna.samplers.TPESampler(multivariate=True, constant_liar=True, seed=seed)
        return sampler, optuna.pruners.WilcoxonPruner(p_threshold=0.05, n_startup_steps=4)
