"""Weights & Biases without a connection: a run goes on offline within seconds, and says so."""

import http.server
import logging
import socket
import threading
import time

import pytest
import wandb

from mtmamba.training.loggers import answers, has_key, wandb_logger


@pytest.fixture
def silent_server():
    """The address of a server that takes calls and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


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
    assert answers(refusing_server)
    start = time.perf_counter()
    assert not answers(silent_server, seconds=0.5)
    assert not answers("http://127.0.0.1:9")
    assert not answers("no address")
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


def test_a_key_without_a_connection_falls_back_to_offline(silent_server, monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", silent_server)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    wandb.teardown()  # which reads the environment once
    start = time.perf_counter()
    with caplog.at_level(logging.WARNING, "mtmamba"):
        logger = wandb_logger(tmp_path / "run", "project", "name", {"experiment": "demo"})
        assert logger.experiment.offline
    assert time.perf_counter() - start < 15
    assert f"Expected an answer from {silent_server} within 4 s, got none" in caplog.text
    wandb.finish()
    wandb.teardown()
    assert list(tmp_path.rglob("*.wandb"))
