import cv2
import numpy as np
import pytest
import torch

from mtmamba.benchmarks.loader import benchmark_loader
from mtmamba.data.transforms import TrainTransform, ValTransform


class TinyDataset:
    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 3

    def __getitem__(self, index):
        return self.transform(
            {"image": np.full((20, 30, 3), index, np.uint8), "id": str(index)}, np.random.default_rng(index)
        )


def test_the_loader_benchmark_reports_the_rate_and_every_stage():
    threads = torch.get_num_threads(), cv2.getNumThreads()
    dataset = TinyDataset(TrainTransform((16, 16)))
    result = benchmark_loader(dataset, samples=7, batch_size=2)
    assert (torch.get_num_threads(), cv2.getNumThreads()) == threads
    assert isinstance(dataset.transform, TrainTransform)
    assert result["samples_per_second"] == pytest.approx(1000 / result["total_ms"])
    stages = {name: value for name, value in result.items() if name not in ("samples_per_second", "total_ms")}
    assert set(stages) == {f"{s}_ms" for s in ("decode", "scale", "crop", "flip", "photometric", "finish", "collate")}
    assert all(value > 0 for value in stages.values())
    with pytest.raises(ValueError, match="measure the training split"):
        benchmark_loader(TinyDataset(ValTransform((16, 16))))
