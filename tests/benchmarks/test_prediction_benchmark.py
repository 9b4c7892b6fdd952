"""What is measured of prediction, on a network and files that take no time."""

import pytest
import torch

from mtmamba.benchmarks.prediction import benchmark_prediction
from mtmamba.config.checks import ConfigError

NETWORKS = {"micro": "experiment=demo data.crop_size=[32,64]"}
SETTINGS = {"device": torch.device("cpu"), "images": 5, "size": [32, 48], "batch_size": 2, "save": ["raw"]}


def test_the_rate_and_every_part_of_prediction():
    record = benchmark_prediction(networks=NETWORKS, model=None, network="micro", **SETTINGS)
    assert set(record) == {"images_per_second", "decode_ms", "network_ms", "write_ms"}
    assert all(value > 0 for value in record.values())
    # Nothing is much faster than the network alone, on a busy machine neither: the units are right.
    assert record["images_per_second"] < 50 * 1e3 / record["network_ms"]


def test_a_network_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match=r"Expected predict\.network among micro, got"):
        benchmark_prediction(networks=NETWORKS, model=None, network="swim", **SETTINGS)
