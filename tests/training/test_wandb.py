"""Weights & Biases without a connection: a run goes on offline within seconds, and says so."""

import logging
import time

import wandb

from mtmamba.training.loggers import wandb_logger


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
