"""Tunes XGBoost on any CSV file, and shows what that gained on rows that it never saw.

``python tune_xgboost.py --help`` lists the options; README.md says how it works.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from cross_validation import (
    DEFAULT_ROUNDS,
    DEFAULTS,
    PRACTICE,
    CrossValidation,
    assign_folds,
    make_objective,
    make_sampler_and_pruner,
    suggest_params,
    train,
)
from csv_data import BadTable, Table, prepare, read_csv
from sklearn.datasets import load_diabetes

import optuna_spark
from optuna_spark.exceptions import OptunaSparkError, UsageError
from optuna_spark.screen import quiet_screen

METRICS = {"rmse": "RMSE", "logloss": "log-loss", "mlogloss": "log-loss"}


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; exits with 2 where it is wrong."""
    parser = argparse.ArgumentParser(
        prog="run-optuna-spark-xgboost.sh",
        description="Tune XGBoost on a CSV file with Optuna on Spark.",
    )
    add = parser.add_argument
    add("--data", type=Path, metavar="FILE.csv", help="default: scikit-learn's diabetes data")
    add("--target", metavar="COLUMN", help="name, or position from 0; default: the last")
    add("--task", choices=["regression", "classification"], help="default: seen from the target")
    add("--header", action=argparse.BooleanOptionalAction, help="default: seen from the file")
    add("--n-trials", type=_count, default=40, metavar="N", help="new trials (default: 40)")
    add("--n-jobs", type=int, default=-1, metavar="N", help="at once; default: all task slots")
    add("--timeout", type=float, metavar="S", help="seconds after which tuning ends")
    add("--study-name", metavar="NAME", help="resumed where it exists")
    add("--storage", metavar="URL", help="default: OPTUNA_STORAGE, else a file made here")
    add("--output", type=Path, default=Path("xgboost-model"), metavar="DIR", help="%(default)s")
    add("--seed", type=_count, default=0, metavar="N", help="of folds and sampler (default: 0)")
    add("--verbose", action="store_true", help="Optuna's log instead of the progress bar")
    return parser.parse_args(argv)


def load_table(args: argparse.Namespace) -> Table:
    """The table that the arguments ask for; without ``--data`` one that scikit-learn brings."""
    if args.data is not None:
        frame, name = read_csv(args.data, args.header), args.data.name
    else:
        frame, name = load_diabetes(as_frame=True).frame, "diabetes (from scikit-learn)"
    return prepare(frame, name, args.target, args.task)


def describe(table: Table, held_out: np.ndarray, objective: CrossValidation) -> None:
    """Print what the data was taken for, so that a wrong guess is seen before it costs time."""
    text = sum(dtype == "category" for dtype in table.features.dtypes)
    columns = f"{table.features.shape[1]} features ({text} of them text)"
    print(f"{table.name}: {len(table.target)} rows, {columns}, target {table.target_name!r}")
    for note in table.notes:
        print(note)
    print(f"{table.task.capitalize()}: {table.reason} (--task decides otherwise).")
    split = f"Tuning on {(~held_out).sum()} rows in {objective.n_folds} folds"
    # Flushed, to come before the progress bar on stderr.
    print(f"{split}; {held_out.sum()} rows are held out.", flush=True)


def open_study(objective: CrossValidation, args: argparse.Namespace) -> optuna.Study:
    """Create or resume the study, with XGBoost's defaults as its first trial."""
    sampler, pruner = make_sampler_and_pruner(args.seed)
    study = optuna_spark.create_study(
        study_name=args.study_name,
        storage=args.storage,
        direction="minimize",
        sampler=sampler,
        pruner=pruner,
        load_if_exists=True,
    )
    # Scores on other rows or folds cannot be compared with those that a study already holds.
    rows = pd.util.hash_pandas_object(objective.features.assign(**{"": objective.target}))
    identity = hashlib.sha256(rows.to_numpy().tobytes() + str(objective.base).encode()).hexdigest()
    if study.user_attrs.get("data", identity) != identity:
        raise BadTable(
            f"Study {study.study_name!r} holds scores for other data, task or --seed:"
            " choose another --study-name."
        )
    study.set_user_attr("data", identity)
    # Tuning starts from what it has to beat, so in cross-validation it cannot end up worse.
    for params in (DEFAULTS, PRACTICE):
        study.enqueue_trial(params, skip_if_exists=True)
    return study


def report(
    table: Table, held_out: np.ndarray, objective: CrossValidation, best: optuna.trial.FrozenTrial
) -> dict[str, Any]:
    """Print held-out scores of the best trial and of XGBoost's defaults, and return all found."""
    fixed = optuna.trial.FixedTrial(best.params)
    params = objective.base | suggest_params(fixed, objective.scale)
    rounds = best.user_attrs["rounds"]
    rows = (table.features, table.target)
    default = train(objective.base, DEFAULT_ROUNDS, rows, held_out)[1][-1]
    tuned = train(params, rounds, rows, held_out)[1][-1]
    metric = METRICS[params["eval_metric"]]
    change = (default - tuned) / (default or 1)
    verdict = f"{abs(change):.1%} {'better' if change > 0 else 'worse'}"
    print(f"\n{metric + ' on held-out rows':<28}(lower is better)")
    print(f"{'XGBoost defaults':<28}{default:10.5g}")
    print(f"{f'tuned (trial {best.number})':<28}{tuned:10.5g}   {verdict}")
    return {
        "params": params,
        "num_boost_round": rounds,
        "metric": metric,
        "held_out": {"defaults": default, "tuned": tuned},
        "target": table.target_name,
        "task": table.task,
        "classes": table.classes,
        "categories": {
            name: column.cat.categories.tolist()
            for name, column in table.features.items()
            if column.dtype == "category"
        },
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Tune, compare, save.

    Returns:
        0 done, 1 failed, 2 wrong arguments or data, 130 interrupted.
    """
    args = parse_args(argv)
    try:
        with quiet_screen(verbose=args.verbose):
            return tune(args)
    except (BadTable, OptunaSparkError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ValueError) else 1
    except KeyboardInterrupt:
        print("Interrupted; with --study-name the same command goes on.", file=sys.stderr)
        return 130


def tune(args: argparse.Namespace) -> int:
    """Do what the arguments ask for; returns the exit code."""
    table = load_table(args)
    held_out = assign_folds(table.target, 5, args.seed) == 0
    objective = make_objective(table, ~held_out, args.seed)
    try:
        args.output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output {str(args.output)!r} cannot be made: {error}.") from error
    describe(table, held_out, objective)
    started = time.monotonic()
    study = open_study(objective, args)
    study.optimize(
        objective,
        n_trials=args.n_trials,
        n_jobs=args.n_jobs,
        timeout=args.timeout,
        show_progress_bar=not args.verbose,
    )
    seconds = time.monotonic() - started
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]
    if not any(trial.state == optuna.trial.TrialState.COMPLETE for trial in trials):
        print("error: no trial was completed: raise --timeout or --n-trials.", file=sys.stderr)
        return 1
    pruned = sum(trial.state == optuna.trial.TrialState.PRUNED for trial in trials)
    print(f"{len(trials)} trials, {pruned} of them pruned, in {seconds:.0f} s")
    found = report(table, held_out, objective, study.best_trial)
    rows = (table.features, table.target)
    model, _ = train(found["params"], found["num_boost_round"], rows)
    model.save_model(args.output / "model.json")
    (args.output / "best_params.json").write_text(json.dumps(found, indent=2) + "\n")
    print(f"\nSaved the tuned model, trained on all {len(table.target)} rows: {args.output}/")
    return 0


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
