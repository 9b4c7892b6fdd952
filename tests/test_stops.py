"""What asks a command to stop, in a process of its own with a terminal of its own."""

import os
import signal
import subprocess
import sys

import pytest

SCRIPT = """
import signal, sys, time
from mtmamba.stops import listen
if "nohup" in sys.argv:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
listen(signal.default_int_handler, signal.SIGTERM, signal.SIGHUP)
try:
    print("listens", flush=True)
    sys.stdin.read()
except KeyboardInterrupt:
    print("one more line", flush=True)
    print("another", file=sys.stderr, flush=True)
    sys.exit(130)
"""


@pytest.mark.parametrize(("nohup", "status"), [(False, 130), (True, 0)])
def test_a_closed_terminal_is_ctrl_c_but_under_nohup(nohup, status):
    """What a command says of its end had been an error, of input and output, which hid the stop."""
    ours, terminal = os.openpty()
    command = [sys.executable, "-c", SCRIPT, *["nohup"] * nohup]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        heard = b""
        while b"\n" not in heard:
            heard += os.read(ours, 1024)
        os.close(ours)
        process.send_signal(signal.SIGHUP)
        if nohup:
            process.stdin.close()
        assert process.wait(20) == status
