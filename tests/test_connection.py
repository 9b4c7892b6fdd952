"""Whether a server can be reached, found out in time."""

import http.server
import threading
import time

import pytest

from mtmamba.connection import answers, has_key


@pytest.fixture
def refusing_server():
    """The address of a server that answers every call with an error."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(403)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_server_is_there_if_it_answers_anything(silent_server, refusing_server):
    assert answers(refusing_server, 2)
    start = time.perf_counter()
    assert not answers(silent_server, seconds=0.5)
    assert not answers("http://127.0.0.1:9", 2)
    assert not answers("no address", 2)
    assert time.perf_counter() - start < 3


def test_a_key_is_found_where_login_leaves_it(tmp_path, monkeypatch):
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert not has_key("https://api.wandb.ai")
    (tmp_path / "netrc").write_text("machine api.wandb.ai\n  login user\n  password 0123\n")
    assert has_key("https://api.wandb.ai")
    assert not has_key("https://elsewhere.org")
    monkeypatch.setenv("WANDB_API_KEY", "0123")
    assert has_key("https://elsewhere.org")
