"""How signals end a run."""

from __future__ import annotations

import signal

import pytest

from optuna_spark.signals import signals_raise


class _Deaf:
    """Python prints an exception that is raised in its end, and goes on."""

    def __init__(self, number: signal.Signals) -> None:
        self._number = number

    def __del__(self) -> None:
        signal.raise_signal(self._number)


@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_raises(number: signal.Signals, error: type[BaseException]) -> None:
    with pytest.raises(error), signals_raise():
        signal.raise_signal(number)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    ("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_a_signal_whose_exception_was_lost_raises_again(
    number: signal.Signals, error: type[BaseException]
) -> None:
    with signals_raise() as check_signals:
        check_signals()
        _Deaf(number)
        with pytest.raises(error):
            check_signals()


def test_the_handlers_are_as_before_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT)
    with signals_raise():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before
