"""A checkpoint is written beside training: nobody waits for the disk, and nobody misses its errors."""

import threading

import pytest

from noah.engine.beside import Beside


def test_the_caller_goes_on_while_the_call_runs():
    go_on, ended = threading.Event(), []
    with Beside() as beside:
        beside.start(lambda: (go_on.wait(10), ended.append(True)))
        beside.check()
        assert not ended
        go_on.set()
    assert ended


def test_the_next_call_waits_for_the_one_before():
    order = []
    with Beside() as beside:
        for number in range(3):
            beside.start(lambda number=number: order.append(number))
    assert order == [0, 1, 2]


def fail():
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("ask", [Beside.check, Beside.wait, lambda beside: beside.start(fail)])
def test_an_error_reaches_whoever_asks_next(ask):
    with Beside() as beside:
        beside.start(fail)
        beside._work.exception()  # it has ended
        with pytest.raises(OSError, match="No space left"):
            ask(beside)


def test_an_error_that_nobody_asked_for_is_raised_at_the_end():
    beside = Beside()
    beside.start(fail)
    with pytest.raises(OSError, match="No space left"):
        beside.__exit__(None, None, None)


def test_an_error_of_the_caller_is_not_hidden_by_one_beside():
    beside = Beside()
    beside.start(fail)
    beside.__exit__(FloatingPointError, None, None)
