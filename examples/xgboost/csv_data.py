"""Reads a CSV file of whatever shape into a table that XGBoost can learn. Driver only."""

from __future__ import annotations

import csv
import gzip
import itertools
import re
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

# Comma last: with decimal commas (7,4;0,7) it splits every line into equally many fields as well.
DELIMITERS = ("\t", ";", "|", ",")
MOST_CODES = 10  # more distinct integers than this are a quantity, not class codes
FEWEST_ROWS = 20  # fewer cannot fill the folds
FEW_ROWS = 50
UNREADABLE = (OSError, EOFError, ValueError, zlib.error, csv.Error, pd.errors.ParserWarning)


class BadTable(ValueError):
    """This data cannot be learned from; the message says what to change."""


@dataclass(frozen=True)
class Table:
    """Features and target, clean, with what was decided about them."""

    name: str
    features: pd.DataFrame  # numbers, truth values and categories; may have gaps
    target: np.ndarray  # float; for classification the position in `classes`
    target_name: str
    task: str  # "regression" or "classification"
    reason: str  # why that task
    classes: list[Any]  # empty for regression
    notes: list[str]  # what was left out, one sentence each


def read_csv(path: Path, header: bool | None = None) -> pd.DataFrame:
    """Read a delimited file, finding delimiter, header and decimal sign from its first lines.

    Args:
        path: The file, gzipped if its name ends in ``.gz``.
        header: Whether the first line holds names; None to find out.

    Raises:
        BadTable: It is no file, is empty, or is not a table.
    """
    if not path.is_file():
        raise BadTable(f"There is no file {str(path)!r}: correct --data.")
    try:
        with _open_text(path) as file:
            lines = [line for line in itertools.islice(file, 100) if line.strip()]
        if not lines:
            raise BadTable(f"{str(path)!r} is empty: give a file with rows in it.")
        delimiter = find_delimiter(lines)
        if delimiter is None:
            raise BadTable(
                f"{str(path)!r} has one column only: it needs a target and at least one feature,"
                " with comma, semicolon, tab or pipe between them."
            )
        if header is None:
            header = has_header(lines[0], delimiter)
        text = "".join(lines)
        decimal_comma = re.search(r"\d,\d", text) and not re.search(r"\d\.\d", text)
        with _open_text(path) as file, warnings.catch_warnings():
            # A row that is too long would lose its last fields with only a warning.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            frame = pd.read_csv(
                file,
                sep=delimiter,
                header=0 if header else None,
                decimal="," if delimiter != "," and decimal_comma else ".",
                na_values=["?"],
                skipinitialspace=True,
                index_col=False,
                low_memory=False,
            )
    except BadTable:
        raise
    except UNREADABLE as error:
        cause = " ".join(str(error).split())
        raise BadTable(f"{str(path)!r} cannot be read as a table: {cause}") from error
    names = [_clean_name(str(name)) for name in frame.columns]
    frame.columns = [
        name if header and names.count(name) == 1 else f"c{position}"
        for position, name in enumerate(names)
    ]
    return frame


def find_delimiter(lines: list[str]) -> str | None:
    """The delimiter that cuts all lines alike, or None if none cuts the first one at all."""
    widths = {
        delimiter: [len(row) for row in csv.reader(lines, delimiter=delimiter)]
        for delimiter in DELIMITERS
    }
    for delimiter, found in widths.items():
        if found[0] > 1 and len(set(found)) == 1:
            return delimiter
    widest = max(DELIMITERS, key=lambda delimiter: widths[delimiter][0])
    return widest if widths[widest][0] > 1 else None


def has_header(line: str, delimiter: str) -> bool:
    """Whether the first line holds names: none of its fields is a number."""
    return not any(_is_number(cell) for cell in next(csv.reader([line], delimiter=delimiter)))


def prepare(
    frame: pd.DataFrame, name: str, target: str | None = None, task: str | None = None
) -> Table:
    """Separate the target from the features, decide on the task, and drop what cannot help.

    Args:
        frame: The rows.
        name: What to call the data in messages.
        target: Name of the target column, or its position (from 0, negative from the end);
            default: the last column.
        task: ``"regression"`` or ``"classification"``; default: see :func:`find_task`.

    Raises:
        BadTable: It cannot be learned from.
    """
    column = _find_target(frame, target)
    frame = frame.replace([np.inf, -np.inf], np.nan)
    present = frame[column].notna()
    notes = []
    if not present.all():
        notes.append(f"Dropped {(~present).sum()} rows in which the target is missing.")
        frame = frame[present]
    if len(frame) < FEWEST_ROWS:
        raise BadTable(f"{name} has {len(frame)} rows with a target: give {FEWEST_ROWS} or more.")
    if len(frame) < FEW_ROWS:
        notes.append(f"Warning: with {len(frame)} rows, scores are mostly chance.")
    values = frame[column].infer_objects()
    if values.nunique() == 1:
        raise BadTable(f"Target {column!r} has one value only: choose another with --target.")
    reason = "as told by --task"
    if task is None:
        task, reason = find_task(values)
    classes: list[Any] = []
    if task == "classification":
        if values.nunique() * 2 > len(values):
            raise BadTable(
                f"Target {column!r} has {values.nunique()} distinct values in {len(values)} rows,"
                " too many for classes: choose another --target or --task regression."
            )
        codes, labels = pd.factorize(values, sort=True)
        target_values, classes = codes.astype(float), labels.tolist()
    else:
        numbers = pd.to_numeric(values, errors="coerce")
        if numbers.isna().any():
            raise BadTable(
                f"Target {column!r} holds {values[numbers.isna()].iloc[0]!r}, which is no number:"
                " choose another --target or --task classification."
            )
        target_values = numbers.to_numpy(dtype=float)
    features, dropped = clean_features(frame.drop(columns=column))
    if features.shape[1] == 0:
        raise BadTable(f"{name} has no feature besides {column!r} that could tell rows apart.")
    return Table(name, features, target_values, column, task, reason, classes, [*notes, *dropped])


def find_task(target: pd.Series) -> tuple[str, str]:
    """Decide between regression and classification.

    Text, truth values, two distinct values, and few integers that start at 0 or 1, as class codes
    do, are classes. Everything else is a quantity. So is a score such as wine quality, 3 to 8:
    its order matters, and being off by one is better than by three.

    Returns:
        The task and the reason for it.
    """
    distinct = target.nunique()
    if not pd.api.types.is_numeric_dtype(target) or pd.api.types.is_bool_dtype(target):
        return "classification", "the target is not numeric"
    if distinct == 2:
        return "classification", "the target has two distinct values"
    if (target % 1 != 0).any() or distinct > MOST_CODES:
        return "regression", f"the target is a number with {distinct} distinct values"
    low, high = int(target.min()), int(target.max())
    span = f"the target's {distinct} integers, {low} to {high},"
    if low in (0, 1):
        return "classification", f"{span} look like class codes"
    return "regression", f"{span} do not start at 0 or 1 as class codes do, so they are a scale"


def clean_features(features: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Make text categorical, and leave out columns that cannot help on new rows.

    Returns:
        The features, and one sentence for each column left out.
    """
    kept, notes = {}, []
    for name, column in features.items():
        distinct = column.nunique()
        numeric = pd.api.types.is_numeric_dtype(column)
        if distinct == 0 or (distinct == 1 and column.notna().all()):
            notes.append(f"Left out {name!r}: it is the same in all rows.")
        elif numeric and (column.diff().iloc[1:] == 1).all() and column.iloc[0] in (0, 1):
            notes.append(f"Left out {name!r}: it numbers the rows.")
        elif not numeric and distinct * 2 > len(column):
            notes.append(f"Left out {name!r}: its texts are nearly all different.")
        else:
            kept[name] = column if numeric else column.astype("category")
    return pd.DataFrame(kept, index=features.index).reset_index(drop=True), notes


def _find_target(frame: pd.DataFrame, target: str | None) -> str:
    if target is None:
        return str(frame.columns[-1])
    if (name := _clean_name(target)) in frame.columns:
        return name
    if re.fullmatch(r"-?\d+", target) and -frame.shape[1] <= int(target) < frame.shape[1]:
        return str(frame.columns[int(target)])
    known = ", ".join(frame.columns[:30]) + (", ..." if frame.shape[1] > 30 else "")
    raise BadTable(f"There is no column {target!r} for --target: the columns are {known}.")


def _clean_name(name: str) -> str:
    # XGBoost refuses these three signs in the name of a feature.
    return name.strip().translate(str.maketrans("[]<", "()_"))


def _is_number(cell: str) -> bool:
    try:
        float(cell.strip().replace(",", "."))
    except ValueError:
        return False
    return True


def _open_text(path: Path) -> IO[str]:
    opener = gzip.open if path.suffix == ".gz" else open
    return opener(path, "rt", encoding="utf-8-sig", errors="replace", newline="")
