"""`make demo`: the model that it starts from, on rooms that the model has not seen."""

import re
from pathlib import Path

import numpy as np
import pytest

import mtmamba
from mtmamba.data.synthetic import render
from mtmamba.restore import load_weights
from mtmamba.sharing import read_model

ROOT = Path(__file__).parents[1]
SCENES = 8


@pytest.fixture(scope="module")
def cfg():
    (command,) = re.findall(r"python src/train\.py(.*)", (ROOT / "Makefile").read_text())
    return mtmamba.load_config(command.split())


def test_the_demo_begins_from_a_model_of_other_scenes(cfg):
    checkpoint, path = read_model(cfg.init)
    load_weights(mtmamba.build_model(cfg), checkpoint, path)
    assert checkpoint["mtmamba"]["values"]["data"]["scenes"]["seed"] != cfg.data.scenes.seed
    assert checkpoint["mtmamba"]["values"]["data"]["scenes"]["train"] > 1000
    assert path.stat().st_size < 10e6


def test_the_model_understands_the_demos_rooms(cfg):
    predictor = mtmamba.Predictor.from_pretrained(cfg.init, device="cpu")
    size = tuple(cfg.data.scenes.size)
    right, of_constant, errors, angles = [], [], [], []
    for index in range(SCENES):
        image, maps = render("nyud", size, seed=cfg.data.scenes.seed, split="val", index=index)
        found, classes = predictor(image), maps.classes("nyud") - 1
        right.append((found["semseg"] == classes).mean())
        of_constant.append((classes == 0).mean())  # walls are most
        errors.append(np.square(found["depth"] - maps.depth).mean())
        angles.append(np.arccos((found["normals"] * maps.normals.transpose(2, 0, 1)).sum(0).clip(-1, 1)).mean())
    assert np.mean(right) > 0.75 > np.mean(of_constant) + 0.2
    assert np.sqrt(np.mean(errors)) < 0.42  # metres: 60 % below those of the mean depth
    assert np.degrees(np.mean(angles)) < 21.5  # 60 % below those of the mean normal
