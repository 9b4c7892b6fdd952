"""Weights & Biases without a connection: a run goes on offline within seconds, and says so."""

import logging
import time

import wandb

from mtmamba.training.loggers import has_key, wandb_logger


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
