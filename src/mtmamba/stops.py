"""What asks a command to stop: Ctrl-C, SIGTERM of a cluster, SIGHUP of a closed terminal."""

import os
import signal
from collections.abc import Callable
from typing import Any

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def listen(act: Callable[..., None], *numbers: int) -> dict[int, Any]:
    """Let signals call ``act``, and return what they called before. Under nohup, SIGHUP stays nothing."""

    def acted(*called: Any) -> None:
        leave_terminal()
        act(*called)

    heard = [n for n in numbers if n != signal.SIGHUP or signal.getsignal(n) != signal.SIG_IGN]
    return {number: signal.signal(number, acted) for number in heard}


def leave_terminal() -> None:
    """Write to nowhere what would go to a terminal that has been closed, where each line would be an error."""
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            os.dup2(nowhere := os.open(os.devnull, os.O_WRONLY), stream)
            os.close(nowhere)
