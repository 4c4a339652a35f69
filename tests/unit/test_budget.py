"""The decisions of a run, by tables, and by simulating whole runs in plain Python."""

from __future__ import annotations

import heapq
import itertools
import math
import random

import pytest

from optuna_spark.budget import (
    GRANT_SECONDS,
    MAX_GRANT,
    Verdict,
    after_loss,
    grant_size,
    jobs_wanted,
    mean,
    remaining,
    to_create,
)


@pytest.mark.parametrize(
    ("limit", "finished", "in_hand", "expected"),
    [
        pytest.param(10, 0, 0, 10, id="nothing-done"),
        pytest.param(10, 4, 2, 4, id="some-done-some-begun"),
        pytest.param(10, 8, 2, 0, id="the-rest-runs-already"),
        pytest.param(10, 10, 0, 0, id="done"),
        pytest.param(10, 12, 0, 0, id="never-below-nothing"),
        pytest.param(0, 0, 0, 0, id="none-asked-for"),
    ],
)
def test_remaining(limit: int, finished: int, in_hand: int, expected: int) -> None:
    assert remaining(limit, finished, in_hand) == expected


@pytest.mark.parametrize(
    ("attempts", "max_retries", "timed_out", "expected"),
    [
        pytest.param(1, 3, False, Verdict.AGAIN, id="the-first-loss"),
        pytest.param(3, 3, False, Verdict.AGAIN, id="the-last-retry"),
        pytest.param(4, 3, False, Verdict.GIVE_UP, id="retries-are-used-up"),
        pytest.param(1, 0, False, Verdict.GIVE_UP, id="no-retry-wanted"),
        pytest.param(1, 3, True, Verdict.TIMED_OUT, id="a-timeout-is-no-loss"),
        pytest.param(9, 3, True, Verdict.TIMED_OUT, id="a-timeout-at-last"),
    ],
)
def test_after_loss(attempts: int, max_retries: int, timed_out: bool, expected: Verdict) -> None:
    assert after_loss(attempts, max_retries, timed_out=timed_out) is expected


@pytest.mark.parametrize(
    ("left", "size", "jobs", "slots", "contested", "expected"),
    [
        pytest.param(1000, 1, 8, 8, False, 8, id="for-all-slots"),
        pytest.param(1000, 1, 1, 8, False, 1, id="for-one-slot"),
        pytest.param(1000, 5, 2, 8, False, 10, id="short-trials"),
        pytest.param(15, 1, 8, 8, False, 8, id="near-the-end"),
        pytest.param(15, 1, 8, 8, True, 1, id="near-the-end-with-others"),
        pytest.param(1000, 1, 8, 8, True, 8, id="far-from-the-end-with-others"),
        pytest.param(1, 2, 8, 8, False, 1, id="never-more-than-are-left"),
        pytest.param(1, 2, 8, 8, True, 1, id="nor-with-others"),
        pytest.param(20, 4, 8, 8, False, 20, id="nor-for-many-jobs"),
        pytest.param(0, 0, 8, 8, False, 0, id="nothing-left"),
        pytest.param(None, 3, 8, 8, False, 24, id="no-limit"),
        pytest.param(None, 0, 8, 8, False, 0, id="none-wanted"),
    ],
)
def test_to_create(
    left: int | None, size: int, jobs: int, slots: int, contested: bool, expected: int
) -> None:
    assert to_create(left, size, jobs, slots, contested=contested) == expected


@pytest.mark.parametrize(
    ("left", "slots", "seconds", "alone", "expected"),
    [
        pytest.param(100, 4, None, False, 1, id="no-trial-has-ended"),
        pytest.param(100, 4, 0.0, False, 1, id="no-time-at-all"),
        pytest.param(100, 4, 60.0, False, 1, id="long-trials"),
        pytest.param(100, 4, GRANT_SECONDS, False, 1, id="as-long-as-a-grant"),
        pytest.param(100, 4, GRANT_SECONDS * 0.6, False, 1, id="two-would-be-too-long"),
        pytest.param(100, 4, GRANT_SECONDS / 2, False, 2, id="two-fit"),
        pytest.param(100, 4, GRANT_SECONDS / 10, False, 10, id="short-trials"),
        pytest.param(10_000, 4, 1e-9, False, MAX_GRANT, id="never-above-the-most"),
        pytest.param(None, 4, 1e-9, False, MAX_GRANT, id="no-limit-no-end-to-shrink-to"),
        pytest.param(16, 4, 1e-3, False, 2, id="smaller-towards-the-end"),
        pytest.param(8, 4, 1e-3, False, 1, id="one-each-at-the-end"),
        pytest.param(1, 4, 1e-3, False, 1, id="the-last"),
        pytest.param(1, 4096, 60.0, False, 1, id="the-last-on-many-slots"),
        pytest.param(100, 4, 1e-3, True, 1, id="callbacks-want-one-at-a-time"),
        pytest.param(None, 4, 1e-3, True, 1, id="alone-without-a-limit"),
        pytest.param(0, 4, 1e-3, False, 0, id="nothing-left"),
        pytest.param(0, 4, None, True, 0, id="nothing-left-alone"),
    ],
)
def test_grant_size(
    left: int | None, slots: int, seconds: float | None, alone: bool, expected: int
) -> None:
    assert grant_size(left, slots, seconds, alone=alone) == expected


@pytest.mark.parametrize(
    ("n_jobs", "slots", "grows", "expected"),
    [
        pytest.param(-1, 2, False, 4, id="every-slot-and-a-job-that-waits-for-each"),
        pytest.param(-1, 100, False, 108, id="some-jobs-wait-for-many-slots"),
        pytest.param(-1, 8, True, 16, id="some-wait-so-that-spark-adds-executors"),
        pytest.param(-1, 0, False, 1, id="no-executor-yet"),
        pytest.param(-1, 0, True, 1, id="no-executor-yet-but-coming"),
        pytest.param(1, 8, False, 1, id="one-at-a-time"),
        pytest.param(3, 8, True, 3, id="a-cap-holds-while-the-cluster-grows"),
        pytest.param(32, 8, False, 32, id="a-cap-above-the-slots"),
    ],
)
def test_jobs_wanted(n_jobs: int, slots: int, grows: bool, expected: int) -> None:
    assert jobs_wanted(n_jobs, slots, grows=grows) == expected


@pytest.mark.parametrize(
    ("durations", "expected"),
    [([], None), ([2.0], 2.0), ([1.0, 2.0, 6.0], 3.0), (iter([0.0, 1.0]), 0.5)],
)
def test_mean(durations: list[float], expected: float | None) -> None:
    assert mean(durations) == expected


def simulate(n_trials: int, slots: int, seconds: list[float], *, alone: bool) -> list[list[int]]:
    """A run without Spark: slots take grants and finish them, in the order of simulated time.

    Returns:
        The trials of each grant, in the order in which they were handed out.
    """
    trials, grants = itertools.count(), []
    finished = outstanding = 0
    durations: list[float] = []
    busy: list[tuple[float, int, list[int]]] = []  # end, a number against ties, the trials
    now = 0.0
    while True:
        while len(busy) < jobs_wanted(-1, slots, grows=False):
            left = remaining(n_trials, finished, outstanding)
            size = grant_size(left, slots, mean(durations[-32:]), alone=alone)
            if size == 0:
                assert left == 0, "nothing is handed out while something is left"
                break
            grant = [next(trials) for _ in range(size)]
            grants.append(grant)
            outstanding += size
            length = sum(seconds[trial % len(seconds)] for trial in grant)
            heapq.heappush(busy, (now + length, len(grants), grant))
        if not busy:
            return grants
        now, _, grant = heapq.heappop(busy)
        finished, outstanding = finished + len(grant), outstanding - len(grant)
        durations += [seconds[trial % len(seconds)] for trial in grant]


DURATIONS = {
    "nothing": [0.0],
    "a-millisecond": [0.001],
    "a-tenth": [0.1],
    "a-second": [1.0],
    "a-minute": [60.0],
    "a-heavy-tail": [0.01 * random.Random(7).paretovariate(1.5) for _ in range(500)],
}


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("durations", DURATIONS)
@pytest.mark.parametrize("slots", [1, 2, 7, 256])
def test_a_run_hands_out_each_trial_once_and_no_other(
    slots: int, durations: str, alone: bool
) -> None:
    for n_trials in (0, 1, 2, 3, 7, 40, 100, 1023):
        grants = simulate(n_trials, slots, DURATIONS[durations], alone=alone)
        assert list(itertools.chain(*grants)) == list(range(n_trials))
        assert all(grants), "a grant of nothing is a job for nothing"
        if alone:
            assert max(map(len, grants), default=1) == 1


@pytest.mark.parametrize("slots", [1, 2, 7, 64])
def test_grants_shrink_to_single_trials_at_the_end(slots: int) -> None:
    sizes = [len(grant) for grant in simulate(2000, slots, [0.001], alone=False)]
    peak = sizes.index(max(sizes))
    assert max(sizes) > 1
    assert sizes[peak:] == sorted(sizes[peak:], reverse=True)
    assert set(sizes[-slots:]) == {1}


def test_no_grant_holds_more_than_a_share_of_what_is_left() -> None:
    for slots, n_trials in itertools.product((1, 2, 16), (50, 999)):
        left = n_trials
        for grant in simulate(n_trials, slots, [0.001], alone=False):
            assert len(grant) <= math.ceil(left / (2 * slots))
            left -= len(grant)


def test_sizes_of_any_situation() -> None:
    chance = random.Random(11)
    for _ in range(5000):
        left = chance.choice([None, chance.randrange(1, 10**6)])
        slots, seconds = chance.randrange(1, 5000), chance.expovariate(1) ** 3
        size = grant_size(left, slots, seconds, alone=chance.random() < 0.2)
        assert 1 <= size <= min(MAX_GRANT, left or MAX_GRANT)
        assert size == 1 or size * seconds <= GRANT_SECONDS
