"""Each job in flight has a socket, and most shells allow a process 1,024 open files."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from optuna_spark import backend
from optuna_spark.backend import room_for

FILES = resource.RLIMIT_NOFILE


@pytest.fixture(autouse=True)
def _limits() -> Iterator[None]:
    before = resource.getrlimit(FILES)
    backend._warn_of_few_files.cache_clear()
    yield
    resource.setrlimit(FILES, before)


def test_what_is_enough_stays() -> None:
    _, hard = resource.getrlimit(FILES)
    resource.setrlimit(FILES, (512, hard))
    assert room_for(8) == 8
    assert resource.getrlimit(FILES) == (512, hard)


def test_the_soft_limit_is_raised_as_far_as_is_needed() -> None:
    _, hard = resource.getrlimit(FILES)
    resource.setrlimit(FILES, (512, hard))
    assert room_for(600) == 600
    soft, after = resource.getrlimit(FILES)
    assert 600 < soft < 1200
    assert after == hard


def test_the_hard_limit_is_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    limits = [1024, 4096]
    monkeypatch.setattr(resource, "getrlimit", lambda which: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", lambda which, new: limits.__setitem__(0, new[0]))
    for _ in range(2):
        assert 3000 < room_for(4096) < 4096
    assert limits[0] == 4096
    assert caplog.text.count("may open 4096 files, too few for 4096 jobs at once") == 1


def test_no_limit_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    infinite = resource.RLIM_INFINITY
    monkeypatch.setattr(resource, "getrlimit", lambda which: (infinite, infinite))
    assert room_for(4096) == 4096
