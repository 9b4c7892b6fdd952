"""Whether a server can be reached."""

import http.client
import threading
import urllib.error
import urllib.request


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
