"""A pool of processes that do not run the calling script again."""

import operator
import os
import signal
import time

import pytest

from mtmamba.workers import WorkerError, Workers


def test_calls_are_answered_by_other_processes():
    with Workers(2, operator.not_, None) as workers:
        futures = [workers.submit(divmod, number, 3) for number in range(20)]
        assert [future.result() for future in futures] == [divmod(number, 3) for number in range(20)]
        assert workers.submit(os.getpid).result() != os.getpid()


def test_an_error_of_a_call_is_the_callers():
    with Workers(1, operator.not_, None) as workers:
        with pytest.raises(ZeroDivisionError):
            workers.submit(divmod, 1, 0).result()
        assert workers.submit(divmod, 7, 3).result() == (2, 1)


def test_what_a_function_prints_does_not_disturb_its_answer():
    with Workers(1, operator.not_, None) as workers:
        assert workers.submit(print, "hello").result() is None


def test_the_end_of_a_process_is_told():
    with Workers(1, operator.not_, None) as workers, pytest.raises(WorkerError, match=r"got its end .*fewer workers"):
        workers.submit(os.abort).result()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_what_stops_a_command_is_its_own_to_act_upon(stop):
    """A closed terminal, and a cluster, tell all processes at once."""
    with Workers(1, operator.not_, None) as workers:
        workers.submit(signal.raise_signal, stop).result()
        assert workers.submit(divmod, 7, 3).result() == (2, 1)


def test_a_pool_that_is_left_waits_for_nobody():
    start = time.monotonic()
    with Workers(1, operator.not_, None) as workers:
        workers.submit(time.sleep, 60)
        time.sleep(0.2)
    assert time.monotonic() - start < 10
