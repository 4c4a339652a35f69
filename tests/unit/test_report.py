"""The report of a study: what the page holds, what it never holds, and how large it gets."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from optuna_spark import figures, report
from optuna_spark.exceptions import ReportError, StudyNotFound, UsageError
from optuna_spark.outcomes import Outcomes, failures, is_feasible
from optuna_spark.report import render_report
from optuna_spark.trial_task import ATTEMPT, FAILURE

NOW = datetime(2026, 11, 25, 12)
ADDRESS = "mysql://optuna:***@db/optuna"
X = {"x": FloatDistribution(0, 1)}
ONE, TWO = ["minimize"], ["minimize", "maximize"]


class Page(HTMLParser):
    """A page as a tree of what was opened and closed, with the text of each section."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: dict[str, str] = {"": ""}
        self._section = ""
        self.feed(text)
        self.close()
        assert not self.open, "each tag is closed"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "section":
            self._section = str(dict(attributes)["id"])
            self.sections[self._section] = ""
        self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        self.sections[self._section] += data

    def count(self, tag: str, kind: str) -> int:
        return sum(
            name == tag and kind in str(attributes.get("class", "")).split()
            for name, attributes in self.tags
        )


def study_of(
    trials: Sequence[FrozenTrial], directions: Sequence[str] = ONE, name: str = "wine"
) -> optuna.Study:
    study = optuna.create_study(directions=directions, study_name=name)
    study.add_trials(trials)
    return study


def a_trial(
    *values: float,
    state: TrialState = TrialState.COMPLETE,
    params: dict[str, Any] | None = None,
    distributions: dict[str, BaseDistribution] | None = None,
    attributes: dict[str, Any] | None = None,
    steps: dict[int, float] | None = None,
) -> FrozenTrial:
    return create_trial(
        state=state,
        values=list(values) or None,
        params={"x": 0.25} if params is None else params,
        distributions=X if distributions is None else distributions,
        system_attrs=attributes or {},
        intermediate_values=steps or {},
    )


def ran(
    trial: FrozenTrial, start: float, end: float, host: str, process: int, begun: int = 1
) -> Any:
    """The trial with what optuna-spark records of it."""
    trial.datetime_start = NOW + timedelta(seconds=start)
    trial.datetime_complete = NOW + timedelta(seconds=end) if trial.state.is_finished() else None
    trial.system_attrs = {
        **trial.system_attrs,
        ATTEMPT: {
            "run": "1f0c9a",
            "grant": 0,
            "begun": begun,
            "host": host,
            "process": process,
            "application": "app-1",
            "stage": 0,
            "task_attempt": 7,
        },
    }
    return trial


def failed(reason: str | None, traceback: str | None = None) -> FrozenTrial:
    attributes = {FAILURE: {"reason": reason, "traceback": traceback}}
    return a_trial(state=TrialState.FAIL, attributes=attributes)


def page_of(study: optuna.Study) -> Page:
    return Page(render_report(study, ADDRESS, NOW))


# What there is to see


def test_an_empty_study() -> None:
    page = page_of(study_of([]))
    assert "Best valuenone" in page.sections[""]
    assert "No trial has ended yet." in page.sections["history"]
    assert "two complete trials" in page.sections["importances"]
    assert set(page.sections) == {"", "history", "importances"}


def test_the_top_of_the_page() -> None:
    trials = [
        ran(a_trial(3.0), 0, 60, "n1", 1),
        ran(a_trial(2.0), 0, 120, "n1", 2),
        ran(a_trial(state=TrialState.RUNNING), 60, 120, "n2", 1),
        ran(failed("no"), 0, 120, "n2", 3),
        a_trial(state=TrialState.WAITING),
    ]
    top = page_of(study_of(trials)).sections[""]
    assert "wine" in top
    assert f"value (minimize) · {ADDRESS} · 2026-11-25 12:00" in top
    assert "Best value2trial 1" in top
    assert "Trials52 complete, 1 failed, 1 running, 1 waiting" in top
    assert "Time2 minfrom 2026-11-25 12:00" in top
    assert "Trials at once36 min of trials in that time" in top
    assert "Hosts24 processes" in top


def test_the_best_trial_has_its_parameters() -> None:
    held = {"x": 0.1234567891234, "n": 3, "kind": None}
    distributions = {
        "x": FloatDistribution(0, 1),
        "n": IntDistribution(1, 5),
        "kind": CategoricalDistribution([None, "a"]),
    }
    trial = a_trial(1.0, params=held, distributions=distributions)
    page = page_of(study_of([a_trial(2.0), trial]))
    best = page.sections["best"]
    assert "Best trial: 1" in best
    assert "x0.123457" in best
    assert '"x": 0.1234567891234' in best, "exact, to be copied"
    assert '"kind": null' in best


@pytest.mark.parametrize(("direction", "best"), [("minimize", 2), ("maximize", 3)])
def test_history_knows_the_direction(direction: str, best: int) -> None:
    study = study_of([a_trial(value) for value in (5.0, 4.0, 1.0, 9.0)], [direction])
    outcomes = Outcomes(study)
    [objective] = outcomes.objectives
    assert outcomes.records(objective)[-1][0] == best
    page = page_of(study)
    assert f"trial {best}" in page.sections[""]
    assert page.count("circle", "complete") == 4
    assert page.count("path", "best") == 1


def test_history_marks_how_trials_ended() -> None:
    trials = [
        a_trial(1.0),
        a_trial(5.0, state=TrialState.PRUNED),
        a_trial(state=TrialState.PRUNED),
        failed("ValueError: no"),
        a_trial(0.5, attributes={"constraints": [0.0, 1.0]}),
    ]
    outcomes = Outcomes(study_of(trials))
    assert outcomes.records(outcomes.objectives[0]) == [(0, 1.0)], "what breaks one is not best"
    page = page_of(outcomes.study)
    assert page.count("circle", "complete") == 1
    assert page.count("circle", "pruned") == 1
    assert page.count("line", "pruned") == 1
    assert page.count("line", "fail") == 1
    assert page.count("circle", "infeasible") == 1
    history = page.sections["history"]
    for word in ("complete", "pruned", "failed", "breaks a constraint", "best so far"):
        assert word in history
    assert "trial 3: failed, ValueError: no" in history


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({}, True),
        ({"constraints": [0.0, -1.0]}, True),
        ({"constraints": [0.1]}, False),
        ({"constraints:cost": 0.0}, True),
        ({"constraints:cost": 2.0}, False),
        ({"constraints": None}, True),
    ],
)
def test_constraints_of_either_optuna(attributes: dict[str, Any], expected: bool) -> None:
    assert is_feasible(a_trial(1.0, attributes=attributes)) is expected


def test_infinite_values_are_at_the_edge() -> None:
    trials = [a_trial(value) for value in (1.0, math.inf, -math.inf, 2.0)]
    page = page_of(study_of(trials))
    assert "2 values are beyond the axis, and drawn at its edge." in page.sections["history"]
    page_of(study_of([a_trial(math.inf)]))


@pytest.mark.parametrize("value", [0.0, 1e-320, -1e-300, 1e308, -1.7e308, 1e9 + 1e-7])
def test_values_at_the_ends_of_floats(value: float) -> None:
    distributions: dict[str, BaseDistribution] = {
        "x": FloatDistribution(-1e307, 1e307),
        "y": FloatDistribution(1e-305, 1e305, log=True),
    }
    params = {"x": 1e307, "y": 1e-305}
    values = (value, value / 2, -value, value, 1e9)
    trials = [a_trial(each, params=params, distributions=distributions) for each in values]
    text = render_report(study_of(trials), ADDRESS, NOW)
    drawn = re.findall("<(?:line|circle|text|path) [^>]*>", text)
    assert len(drawn) > 30
    assert not [element for element in drawn if re.search(r"\b(nan|inf)\b", element)]


def test_values_of_many_decades_have_a_logarithmic_axis() -> None:
    page = page_of(study_of([a_trial(10.0**-power) for power in range(8)]))
    assert "The axis of values is logarithmic." in page.sections["history"]
    page = page_of(study_of([a_trial(-(10.0**-power)) for power in range(8)]))
    assert "logarithmic" not in page.sections["history"]


def test_two_objectives() -> None:
    values = [(1.0, 1.0), (2.0, 2.0), (3.0, 1.0), (0.5, 0.5)]
    study = study_of([a_trial(*pair) for pair in values], TWO)
    page = page_of(study)
    assert page.count("circle", "front") == 3
    assert page.sections["history"].count("best so far") == 2, "a figure for each"
    assert "Best trials3on the Pareto front" in page.sections[""]
    assert "value 0 (minimize)" in page.sections["front"]
    assert "value 1 (maximize)" in page.sections["front"]
    assert {"slices-0", "slices-1", "best"} <= set(page.sections)


def test_three_objectives_have_no_front_but_a_table() -> None:
    study = study_of([a_trial(1.0, 2.0, float(n)) for n in range(30)], [*ONE, *ONE, *ONE])
    page = page_of(study_of(study.trials, ["minimize", "minimize", "maximize"]))
    assert "front" not in page.sections
    assert page.count("td", "number") == 4, "the best trial and its three values"
    wide = [a_trial(float(n), float(-n), 0.0) for n in range(30)]
    page = page_of(study_of(wide, [*ONE, *ONE, *ONE]))
    assert "10 of 30 best trials are listed." in page.sections["best"]


def test_names_of_the_values() -> None:
    study = study_of([a_trial(1.0, 2.0)], TWO)
    with pytest.warns(optuna.exceptions.ExperimentalWarning):
        study.set_metric_names(["loss", "speed"])
    assert "loss (minimize)" in page_of(study).sections["history"]


# Parameters


def test_importances() -> None:
    distributions: dict[str, BaseDistribution] = {**X, "idle": FloatDistribution(0, 1)}
    trials = [
        a_trial(
            index / 50,
            params={"x": index / 50, "idle": index * 0.37 % 1},
            distributions=distributions,
        )
        for index in range(50)
    ]
    for direction in ("minimize", "maximize"):
        outcomes = Outcomes(study_of(trials, [direction]))
        [objective] = outcomes.objectives
        shares = outcomes.importances(objective)
        assert list(shares) == ["x", "idle"]
        assert sum(shares.values()) == pytest.approx(1)
        assert shares["x"] > 0.8


def test_importance_is_for_good_values() -> None:
    """One parameter decides among the good trials, another among the bad."""
    distributions: dict[str, BaseDistribution] = {
        name: CategoricalDistribution([0, 1]) for name in ("good", "bad")
    }
    trials = []
    for index in range(200):
        good, bad = int(index % 10 == 0), int(index % 10 == 5)
        params = {"good": good, "bad": bad}
        trials.append(
            a_trial(good - bad + index / 1e4, params=params, distributions=distributions)
        )
    for direction, first in (("maximize", "good"), ("minimize", "bad")):
        outcomes = Outcomes(study_of(trials, [direction]))
        assert next(iter(outcomes.importances(outcomes.objectives[0]))) == first


@pytest.mark.parametrize(
    ("trials", "expected"),
    [
        ([a_trial(1.0)], "it takes two complete trials with a finite value"),
        ([a_trial(math.inf)] * 5, "it takes two complete trials with a finite value"),
        ([a_trial(1.0, params={}, distributions={})] * 5, "the trials have no parameters"),
        ([a_trial(1.0)] * 5, "good and bad trials do not differ"),
    ],
)
def test_why_importances_are_not_known(trials: list[FrozenTrial], expected: str) -> None:
    assert f"Not known for value: {expected}" in page_of(study_of(trials)).sections["importances"]


def test_what_optuna_says_of_importances_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise RuntimeError("Encountered zero <total> variance.\nAnd more.")

    monkeypatch.setattr(optuna.importance, "get_param_importances", refuse)
    page = page_of(study_of([a_trial(1.0), a_trial(2.0)]))
    assert (
        "Not known for value: Encountered zero <total> variance." in page.sections["importances"]
    )
    assert "slices" in page.sections


DISTRIBUTIONS: dict[str, BaseDistribution] = {
    "rate": FloatDistribution(1e-5, 1e-1, log=True),
    "layers": IntDistribution(1, 3),
    "units": IntDistribution(1, 1024, log=True),
    "kind": CategoricalDistribution([None, True, 1.5, "sgd"]),
    "same": FloatDistribution(2, 2),
}


def test_slices_of_each_kind_of_parameter() -> None:
    params = {"rate": 1e-3, "layers": 2, "units": 32, "kind": None, "same": 2.0}
    trials = [a_trial(float(n), params=params, distributions=DISTRIBUTIONS) for n in range(8)]
    page = page_of(study_of(trials))
    slices = page.sections["slices"]
    for label in (*params, "1e-5", "0.001", "None", "True", "1.5", "sgd", "1,000"):
        assert label in slices
    assert page.count("path", "age3") == 5
    assert slices.count("ring") == 1, "the caption says what it is"


def test_parameters_that_only_some_trials_have() -> None:
    trials = [
        a_trial(1.0),
        a_trial(2.0, params={"y": 3}, distributions={"y": IntDistribution(1, 5)}),
        a_trial(3.0, params={"y": 9}, distributions={"y": IntDistribution(4, 9)}),
    ]
    outcomes = Outcomes(study_of(trials))
    assert outcomes.params["y"] == IntDistribution(1, 9)
    assert "y" in page_of(outcomes.study).sections["slices"]


def test_learning_curves() -> None:
    trials = [
        a_trial(1.0, steps={0: 3.0, 1: 2.0, 2: 1.0}),
        a_trial(2.0, steps={0: 4.0, 1: math.nan, 2: 2.0}),
        a_trial(5.0, state=TrialState.PRUNED, steps={0: 5.0}),
        a_trial(7.0),
    ]
    page = page_of(study_of(trials))
    assert page.count("path", "line") == 4, "a curve for each of three, and the history"
    assert page.count("path", "best") == 2
    assert "curves" not in page_of(study_of([a_trial(1.0)])).sections


# How it ran


def test_the_timeline_of_a_study_without_hosts() -> None:
    page = page_of(study_of([a_trial(1.0)]))
    assert "Trials that optuna-spark did not run have no host." in page.sections["timeline"]
    assert "Hosts" not in page.sections[""]


def test_pauses_are_told() -> None:
    trials = [ran(a_trial(1.0), start, start + 60, "n", 1) for start in (0, 7200)]
    page = page_of(study_of(trials))
    assert "Time2 minfrom 2026-11-25 12:00, 1 pause left out" in page.sections[""]
    assert "A pause is cut out at the dashed line (1 h 59 min)." in page.sections["timeline"]


def test_a_study_that_only_failed_has_an_axis_without_numbers() -> None:
    page = page_of(study_of([failed("no"), failed("no")]))
    history = page.sections["history"]
    assert page.count("line", "fail") == 2
    assert "best" not in history
    assert re.findall(r"^[\d.]+$", history, re.M) == ["0", "1"], "those of the trials"


def test_failures_by_reason() -> None:
    trace = "Traceback (most recent call last):\n  <module>\nValueError: no row 2\n"
    trials = [
        ran(failed("ValueError: no row 1"), 0, 1, "n1", 1),
        ran(failed("MemoryError"), 0, 1, "n2", 1),
        ran(failed("ValueError: no row 2", trace), 0, 1, "n3", 1),
        a_trial(state=TrialState.FAIL),
    ]
    groups = failures(study_of(trials).trials)
    assert [(each.reason, len(each.trials)) for each in groups] == [
        ("ValueError: no row 2", 2),
        ("MemoryError", 1),
        ("No reason was recorded.", 1),
    ]
    page = page_of(study_of(trials))
    told = page.sections["failures"]
    assert "Failures (4)" in told
    assert "2 trials: 0, 2 · on n1, n3" in told
    assert trace in told
    assert [tag for tag, _ in page.tags].count("details") == 1


@pytest.mark.parametrize(
    "odd", ["text", None, 3, ["a"], {}, {"reason": 5, "host": 7, "begun": "x"}]
)
def test_attributes_of_another_shape_do_no_harm(odd: Any) -> None:
    attributes = {FAILURE: odd, ATTEMPT: odd}
    page = page_of(study_of([a_trial(state=TrialState.FAIL, attributes=attributes)]))
    assert "Failures (1)" in page.sections["failures"]


def test_trials_that_began_again() -> None:
    trials = [ran(a_trial(1.0), 0, 1, "n1", 1), ran(a_trial(2.0), 0, 1, "n<2>", 1, begun=3)]
    told = page_of(study_of(trials)).sections["attempts"]
    assert "Trials that began again (1)" in told
    assert "13completen<2>" in told
    assert "attempts" not in page_of(study_of(trials[:1])).sections


# What there is never to see


EVIL = "</title></svg><script>alert('x')</script><img src=\"http://x\">&\x00\x1b\ud800"


def test_text_of_a_study_stays_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING", "optuna")  # which logs names that cannot be printed
    distributions: dict[str, BaseDistribution] = {
        EVIL: CategoricalDistribution([EVIL, "b"]),
        EVIL + "2": FloatDistribution(0, 1),
    }
    params = {EVIL: EVIL, EVIL + "2": 0.5}
    trials = [
        ran(a_trial(float(n), params=params, distributions=distributions), 0, 9, EVIL, n)
        for n in range(4)
    ]
    trials += [ran(failed(EVIL, EVIL), 0, 5, EVIL, 9, begun=2)]
    text = render_report(study_of(trials, name=EVIL), EVIL, NOW)
    text.encode("utf-8")
    page = Page(text)
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "img"}
    for _, attributes in page.tags:
        assert not set(attributes) & {"src", "href", "onload", "onclick", "xlink:href"}
    for name in ("", "best", "importances", "slices", "timeline", "failures", "attempts"):
        assert "</svg><script>alert('x')" in page.sections[name], name
    assert not re.search("[\x00\x1b\ud800]", text)


def test_the_page_loads_nothing() -> None:
    trials = [ran(a_trial(float(n)), n, n + 1, "n1", 1) for n in range(5)]
    text = render_report(study_of(trials), ADDRESS, NOW)
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|url\(|@import|<link|<script|src=", text)


def test_no_password_is_shown() -> None:
    url = "mysql+pymysql://optuna:s3cr3t@db:3306/optuna"
    trials = [failed(f"could not connect to {url}", f'open("{url}")\n')]
    text = render_report(study_of(trials, name=url), ADDRESS, NOW)
    assert "s3cr3t" not in text
    assert text.count("mysql+pymysql://optuna:***@db:3306/optuna") >= 3


# How large it gets


def many(count: int) -> Iterator[FrozenTrial]:
    """Trials of 30 parameters, which fail now and then for 40 reasons, on 300 processes."""
    distributions: dict[str, BaseDistribution] = {
        f"p{index}": FloatDistribution(0, 1) for index in range(30)
    }
    for index in range(count):
        params = {name: (index * 0.618 + int(name[1:])) % 1 for name in distributions}
        process, steps = index % 300, {step: float(step) for step in range(100)}
        if index % 10 == 0:
            trial = failed("because of " + chr(97 + index // 10 % 40) * 9, "line\n" * 50)
        else:
            trial = a_trial(
                index * 0.3 % 1, params=params, distributions=distributions, steps=steps
            )
        yield ran(trial, index // 300, index // 300 + 1, f"n{process % 7}", process, begun=2)


def test_a_page_stays_small() -> None:
    page = page_of(study_of(list(many(2000))))
    drawn = page.count("circle", "complete") + page.count("line", "fail")
    assert drawn <= figures.MAX_DOTS + 100
    assert "trials are drawn, each new best included." in page.sections["history"]
    slices = page.sections["slices"]
    assert page.count("path", "age0") == figures.MAX_SLICES
    assert "6 more parameters are left out." in slices
    assert "800 of 1,800 trials are drawn at most." in slices
    assert page.count("path", "line") == figures.MAX_CURVES + 2
    assert "81 of 1,800 trials are drawn, the best included." in page.sections["curves"]
    assert "100 more lines, of" in page.sections["timeline"]
    assert page.count("div", "failure") == report.MAX_REASONS
    assert "20 more reasons, of 100 trials, are left out." in page.sections["failures"]
    assert "30 of 2,000 are listed." in page.sections["attempts"]


def test_ten_times_the_trials_are_not_ten_times_the_page() -> None:
    sizes = [len(render_report(study_of(list(many(n))), ADDRESS, NOW)) for n in (300, 3000)]
    assert sizes[1] < 3 * sizes[0]
    assert sizes[1] < 1_500_000


# The file


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("wine", "wine.html"),
        ("a/b\\c", "a_b_c.html"),
        ("../../etc", "_.._etc.html"),
        ("..", "report.html"),
        ("", "report.html"),
        ("größe 2", "größe 2.html"),
        ("x" * 300, "x" * 100 + ".html"),
    ],
)
def test_the_file_of_a_report(name: str, expected: str) -> None:
    assert report.default_output(name) == Path(expected)


def test_a_file_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    report.check_output(tmp_path / "new" / "wine.html")
    assert not list((tmp_path / "new").iterdir())
    old = tmp_path / "old.html"
    old.write_text("old")
    report.check_output(old)
    assert old.read_text() == "old"


@pytest.mark.parametrize("prepare", [Path.mkdir, lambda path: path.symlink_to("no/such/place")])
def test_a_file_that_cannot(prepare: Callable[[Path], None], tmp_path: Path) -> None:
    output = tmp_path / "wine.html"
    prepare(output)
    with pytest.raises(UsageError, match=r"^The report \S+ cannot be written \(.+\): name anoth"):
        report.check_output(output)


def test_a_disk_that_is_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    study = report.open_study(None, storage_with_a_study(tmp_path))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    expected = r"^The report \S+ cannot be written \(No space left on device\): free space, or"
    with pytest.raises(ReportError, match=expected):
        report.write_report(study, tmp_path / "wine.html")


def storage_with_a_study(folder: Path) -> str:
    url = f"sqlite:///{folder}/study.db"
    optuna.create_study(study_name="wine", storage=url, direction="maximize")
    return url


def test_a_report_reads_the_study(tmp_path: Path) -> None:
    study = report.open_study("wine", storage_with_a_study(tmp_path))
    assert study.direction == StudyDirection.MAXIMIZE
    report.write_report(study, tmp_path / "wine.html")
    page = Page((tmp_path / "wine.html").read_text(encoding="utf-8"))
    assert f"sqlite:///{tmp_path}/study.db" in page.sections[""]


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/none.db"
    with pytest.raises(StudyNotFound, match=r"no study in sqlite:\S+, as that file does not ex"):
        report.open_study("wine", url)
    assert not (tmp_path / "none.db").exists()
