"""Processes that call functions of this package, without running the calling script again as multiprocessing's do."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import IO, Any, Self

from mtmamba.stops import STOPS


def usable_cores() -> int:
    """Return how many of the machine's cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerError(RuntimeError):
    """A process ended before its answer, as where memory runs out."""


class Workers:
    """A pool of fresh processes, a thread waiting for each. They end with the process that started them.

    Args:
        count: processes.
        initializer: called first in each, with ``initargs``.
        initargs: arguments.
    """

    def __init__(self, count: int, initializer: Callable[..., object], *initargs: Any) -> None:
        self._local = threading.local()
        self._processes: list[subprocess.Popen[bytes]] = []
        self._threads = ThreadPoolExecutor(count, initializer=self._start, initargs=(initializer, *initargs))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End what nobody waits for any more; what is at work is not waited for either where an error ends the pool."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            process.kill()
            process.communicate()
        self._threads.shutdown()

    def submit(self, function: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        """Call a module's function in one of the processes.

        Raises:
            WorkerError: from the result, when the process ended.
        """
        return self._threads.submit(lambda: _ask(self._local.process, function, *arguments))

    def _start(self, initializer: Callable[..., object], *arguments: Any) -> None:
        path = os.pathsep.join(entry for entry in sys.path if entry)
        self._local.process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._processes.append(self._local.process)
        _ask(self._local.process, initializer, *arguments)


def serve() -> None:
    """Answer calls from standard input until it ends; whatever functions print goes to standard error."""
    for number in STOPS:  # the starting process's to act upon, which ends this one
        signal.signal(number, signal.SIG_IGN)
    calls, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    while True:
        try:
            function, arguments = pickle.load(calls)
        except EOFError:
            return
        try:
            answer = True, function(*arguments)
        except Exception as error:  # noqa: BLE001 - the caller raises it again
            answer = False, error
        _send(answers, answer)


def _ask(process: "subprocess.Popen[bytes]", function: Callable[..., Any], *arguments: Any) -> Any:
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        _send(process.stdin, (function, arguments))
        succeeded, answer = pickle.load(process.stdout)
    except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
        raise WorkerError(
            f"Expected an answer from a worker process, got its end (exit status {process.poll()}): try fewer workers, "
            "each needs memory."
        ) from error
    if not succeeded:
        raise answer
    return answer


def _send(stream: IO[bytes], value: Any) -> None:
    stream.write(pickle.dumps(value, pickle.HIGHEST_PROTOCOL))
    stream.flush()
