"""What the XGBoost example makes of CSV files: their shape, their target, and bad ones."""

from __future__ import annotations

import gzip
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pd = pytest.importorskip("pandas")
xgb = pytest.importorskip("xgboost")
pytest.importorskip("sklearn")

EXAMPLE = Path(__file__).parents[2] / "examples" / "xgboost"
Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _example_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLE))


@pytest.fixture
def csv_data() -> Any:
    return importlib.import_module("csv_data")


@pytest.fixture
def cross_validation() -> Any:
    return importlib.import_module("cross_validation")


@pytest.fixture
def tune() -> Any:
    return importlib.import_module("tune_xgboost")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(text: str, name: str = "data.csv") -> Path:
        path = tmp_path / name
        data = text.encode()
        path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
        return path

    return write


def rows(count: int, line: str = "{i},{odd},{value}", header: str = "a,b,y") -> str:
    lines = [line.format(i=i * 3, odd=i % 2, value=i * 0.5 + 0.25) for i in range(count)]
    return "\n".join([header, *lines]) + "\n"


@pytest.mark.parametrize(
    ("text", "columns", "first"),
    [
        ("a,b\n1,2\n3,4\n", ["a", "b"], [1, 2]),
        ("a;b\n1;2\n3;4\n", ["a", "b"], [1, 2]),
        ("a\tb\n1\t2\n3\t4\n", ["a", "b"], [1, 2]),
        ("a|b\n1|2\n3|4\n", ["a", "b"], [1, 2]),
        ("1;2\n3;4\n", ["c0", "c1"], [1, 2]),
        ('"fixed acidity";"pH"\n7.4;3.51\n7.8;3.2\n', ["fixed acidity", "pH"], [7.4, 3.51]),
        ('"a, b";"c"\n1;2\n3;4\n', ["a, b", "c"], [1, 2]),
        ("a;b\n7,4;0,5\n7,8;0,25\n", ["a", "b"], [7.4, 0.5]),
        ("7,4;0,5\n7,8;0,25\n", ["c0", "c1"], [7.4, 0.5]),
        ("a, b\n1, 2\n3, 4\n", ["a", "b"], [1, 2]),
        ("a,b\r\n1,2\r\n3,4\r\n", ["a", "b"], [1, 2]),
        ("\ufeffa,b\n1,2\n3,4\n", ["a", "b"], [1, 2]),
        ("\na,b\n1,2\n\n3,4\n", ["a", "b"], [1, 2]),
        ("v [m/s],d<1\n1,2\n3,4\n", ["v (m/s)", "d_1"], [1, 2]),
        ('a,b\n"1",x;y\n3,z;w\n', ["a", "b"], [1, "x;y"]),
    ],
)
def test_read_csv_finds_delimiter_header_and_decimal_sign(
    csv_data: Any, write: Write, text: str, columns: list[str], first: list[Any]
) -> None:
    frame = csv_data.read_csv(write(text))
    assert list(frame.columns) == columns
    assert frame.iloc[0].tolist() == first
    assert len(frame) == 2


def test_read_csv_takes_gzip_and_is_told_of_a_header(csv_data: Any, write: Write) -> None:
    path = write("1,2\n3,4\n5,6\n", "data.csv.gz")
    assert len(csv_data.read_csv(path)) == 3
    assert list(csv_data.read_csv(path, header=True).columns) == ["1", "2"]


@pytest.mark.parametrize(
    ("target", "expected"),
    [(None, "y"), ("a", "a"), ("b ", "b"), ("0", "a"), ("1", "b"), ("-1", "y")],
)
def test_target_by_name_or_position(csv_data: Any, target: str | None, expected: str) -> None:
    frame = pd.DataFrame({"a": np.arange(60.0) ** 2, "b": [0.5, 1, 2] * 20, "y": [1.5, 2] * 30})
    table = csv_data.prepare(frame, "data", target)
    assert table.target_name == expected
    assert expected not in table.features


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["red", "white", "rose"], "classification"),
        ([True, False], "classification"),
        ([0, 1], "classification"),
        ([-1, 1], "classification"),
        ([0.0, 1.0, 2.0], "classification"),
        ([1, 2, 3, 5, 6, 7], "classification"),
        ([3, 4, 5, 6, 7, 8], "regression"),  # wine quality
        (list(range(1, 30)), "regression"),  # rings of an abalone
        ([0.5, 1.0, 1.5], "regression"),
        ([1_000_000, 2_500_000, 3_000_000], "regression"),
    ],
)
def test_task_is_seen_from_the_target(csv_data: Any, values: list[Any], task: str) -> None:
    found, reason = csv_data.find_task(pd.Series(values * 10))
    assert found == task
    assert reason


def test_prepare_drops_what_cannot_help_and_says_so(csv_data: Any) -> None:
    n = 100
    frame = pd.DataFrame(
        {
            "id": range(n),
            "same": [7] * n,
            "empty": [np.nan] * n,
            "name": [f"person {i}" for i in range(n)],
            "color": ["red", "blue", None, "red"] * (n // 4),
            "x": [np.inf, *np.linspace(0, 5, n - 1)],
            "y": [*np.linspace(0, 1, n - 2), np.nan, np.nan],
        }
    )
    table = csv_data.prepare(frame, "data")
    assert list(table.features) == ["color", "x"]
    assert table.features["color"].dtype == "category"
    assert table.features["x"].isna().sum() == 1
    assert len(table.target) == len(table.features) == n - 2
    notes = " ".join(table.notes)
    assert "Dropped 2 rows in which the target is missing." in notes
    assert all(repr(name) in notes for name in ("id", "same", "empty", "name"))


def test_classes_keep_their_labels(csv_data: Any) -> None:
    frame = pd.DataFrame({"x": np.arange(60.0) ** 2, "y": ["no", "yes", "maybe"] * 20})
    table = csv_data.prepare(frame, "data")
    assert table.classes == ["maybe", "no", "yes"]
    assert table.target[:3].tolist() == [1, 2, 0]


def test_few_rows_are_warned_of(csv_data: Any) -> None:
    frame = pd.DataFrame({"x": np.arange(49.0) ** 2, "y": np.arange(49) * 0.5})
    assert any("49 rows" in note for note in csv_data.prepare(frame, "data").notes)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", [], "is empty"),
        ("\n\n", [], "is empty"),
        ("a\n1\n2\n", [], "one column only"),
        ("a,b,y\n", [], "0 rows"),
        (rows(5), [], "5 rows"),
        (rows(60), ["--target", "price"], "no column 'price'"),
        (rows(60), ["--target", "7"], "no column '7'"),
        (rows(60, line="{i},1,{odd}x"), ["--task", "regression"], "'0x', which is no number"),
        (rows(60, line="{i},1,name {i}"), [], "too many for classes"),
        (rows(60, line="{i},1,4"), [], "one value only"),
        (rows(60, line="2,1,{value}"), [], "no feature"),
        (rows(60, line="{i},{odd},"), [], "0 rows"),
        (rows(60) + "1,2,3,4,5\n", [], "cannot be read as a table"),
    ],
)
def test_bad_data_is_one_sentence_and_exit_code_2(
    tune: Any,
    write: Write,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    text: str,
    options: list[str],
    message: str,
) -> None:
    output = tmp_path / "model"
    code = tune.main(["--data", str(write(text)), "--output", str(output), *options])
    printed = capsys.readouterr()
    assert code == 2
    assert message in printed.err
    assert printed.err.startswith("error: ")
    assert printed.err.count("\n") == 1
    assert not output.exists()


def test_missing_and_broken_files(
    tune: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.csv.gz"
    broken.write_bytes(b"not gzip at all")
    for path, message in ((tmp_path / "gone.csv", "no file"), (broken, "cannot be read")):
        assert tune.main(["--data", str(path)]) == 2
        assert message in capsys.readouterr().err


def test_output_that_cannot_be_made(
    tune: Any, write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(rows(60))
    assert tune.main(["--data", str(path), "--output", str(path / "model")]) == 2
    assert "--output" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--n-trials", "-1"], ["--n-trials", "many"], ["--what"]])
def test_wrong_options_exit_with_2(
    tune: Any, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        tune.main(option)
    assert stop.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_folds_hold_the_same_mix(cross_validation: Any) -> None:
    target = np.repeat([0.0, 1.0, 2.0], [100, 47, 6])
    folds = cross_validation.assign_folds(target, 5, seed=1)
    for label in (0, 1, 2):
        counts = np.bincount(folds[target == label], minlength=5)
        assert counts.max() - counts.min() <= 2
    assert (folds != cross_validation.assign_folds(target, 5, seed=2)).any()


@pytest.mark.parametrize("target", [[3.5, 4, 5, 6.5], ["no", "yes"], ["a", "b", "c", "d"]])
def test_objective_scores_each_task(
    csv_data: Any, cross_validation: Any, target: list[Any]
) -> None:
    import optuna

    rng = np.random.default_rng(0)
    labels = rng.integers(len(target), size=80)
    x = labels + rng.normal(size=80)
    frame = pd.DataFrame(
        {"x": x, "text": rng.choice(["p", "q"], 80), "y": [target[i] for i in labels]}
    )
    table = csv_data.prepare(frame, "data")
    objective = cross_validation.make_objective(table, np.ones(80, dtype=bool), seed=0)
    trial = optuna.create_study().ask()
    assert np.isfinite(objective(trial))
    assert 1 <= trial.user_attrs["rounds"] <= cross_validation.MAX_ROUNDS
