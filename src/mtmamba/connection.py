"""Whether a server can be reached, and whether this machine holds a key for it."""

import http.client
import netrc
import os
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path


def answers(url: str, seconds: float) -> bool:
    """Return whether a server answers within some seconds, through the environment's proxies, whatever it says."""
    answered = threading.Event()

    def ask() -> None:  # in a thread: looking up a name has no time limit of its own
        try:
            urllib.request.urlopen(url, timeout=seconds).close()
        except urllib.error.HTTPError:
            pass  # an answer, too
        except (OSError, ValueError, http.client.HTTPException):
            return
        answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return answered.is_set()


def has_key(url: str) -> bool:
    """Return whether this machine holds a key for a Weights & Biases server, as ``wandb login`` leaves it."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
    try:
        return netrc.netrc(path).authenticators(urllib.parse.urlsplit(url).hostname or "") is not None
    except (OSError, netrc.NetrcParseError):
        return False
