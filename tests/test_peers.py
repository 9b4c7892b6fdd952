"""The recipes of other methods' authors: what their papers and programs say, against what is built."""

import pytest
import torch
from omegaconf.errors import InterpolationKeyError

import mtmamba
from mtmamba import build
from mtmamba.shipped import config_dir

NYUD, PASCAL = "nyud", "pascal_context"
SIZES = {NYUD: 795, PASCAL: 4998}
SUM = {"semseg": 1, "depth": 1, "human_parts": 2, "sal": 5, "normals": 10, "edge": 50}
MEAN = SUM | {"normals": 10 / 3}  # of three components, where the survey's loss has their mean and ours their sum
RECIPES = [  # optimiser, rate, weight decay, images of a step, steps or epochs, weights of tasks and of boundary pixels
    ("atrc", NYUD, "SGD", 1e-2, 5e-4, 8, 40_000, None, SUM, 0.8),
    ("atrc", PASCAL, "SGD", 5e-3, 5e-4, 8, 40_000, None, SUM, 0.95),
    ("fcn", NYUD, "SGD", 1e-2, 5e-4, 8, 40_000, None, SUM, 0.8),
    ("fcn", PASCAL, "SGD", 5e-3, 5e-4, 8, 40_000, None, SUM, 0.95),
    ("mqtransformer", NYUD, "SGD", 1e-3, 5e-4, 8, 40_000, None, SUM, 0.8),
    ("mqtransformer", PASCAL, "SGD", 1e-3, 5e-4, 8, 40_000, None, SUM, 0.95),
    ("invpt", NYUD, "Adam", 2e-5, 1e-6, 6, 40_000, None, SUM, 0.95),
    ("invpt", PASCAL, "Adam", 2e-5, 1e-6, 6, 40_000, None, SUM, 0.95),
    ("pad_net", NYUD, "Adam", 1e-4, 1e-4, 8, None, 100, MEAN, 0.95),
    ("pad_net", PASCAL, "Adam", 1e-4, 1e-4, 8, None, 100, MEAN, 0.95),
    ("mti_net", NYUD, "Adam", 1e-4, 1e-4, 8, None, 100, MEAN, 0.95),
    ("mti_net", PASCAL, "Adam", 1e-4, 1e-4, 8, None, 100, MEAN, 0.95),
    ("cross_stitch", NYUD, "SGD", 1e-3, 1e-4, 8, None, 50, MEAN, 0.95),
    ("cross_stitch", PASCAL, "SGD", 5e-3, 1e-4, 12, None, 20, MEAN, 0.95),
    ("nddr", NYUD, "SGD", 1e-3, 1e-4, 8, None, 50, MEAN, 0.95),
    ("nddr", PASCAL, "SGD", 5e-3, 1e-4, 12, None, 20, MEAN, 0.95),
    ("astmt", NYUD, "SGD", 1e-3, 1e-4, 8, None, 200, MEAN, 0.8),
    ("astmt", PASCAL, "SGD", 1e-3, 1e-4, 8, None, 60, MEAN, 0.95),
    ("mtan", NYUD, "Adam", 1e-4, 1e-4, 8, None, 100, MEAN, 0.95),
    ("mtan_pascal", PASCAL, "SGD", 5e-3, 1e-4, 6, None, 100, MEAN, 0.95),
]


def test_every_recipe_is_here():
    files = {path.stem for path in (config_dir() / "experiment/peers").glob("*.yaml")}
    assert files == {name for name, *_ in RECIPES}


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: f"{recipe[0]}-{recipe[1]}")
def test_a_recipe_is_its_authors(recipe):
    name, data, optimizer, rate, decay, images, steps, epochs, weights, positive = recipe
    cfg = mtmamba.load_config([f"experiment=peers/{name}", f"data={data}", "encoder=swin_micro"])
    assert cfg.choices.decoder == name.removesuffix("_pascal")
    assert cfg.data.batch_size == images
    epoch = SIZES[data] // images if epochs else 1
    length = steps or epochs * epoch
    assert cfg.trainer.max_steps == length
    module = build.build_module(cfg)
    built = module.configure_optimizers()
    found, schedule = built["optimizer"], built["lr_scheduler"]["scheduler"]
    assert type(found).__name__ == optimizer
    group = found.param_groups[0]
    assert (group["initial_lr"], group["weight_decay"], group.get("momentum", 0.9)) == (rate, decay, 0.9)
    for step in (0, epoch - 1, epoch, 7 * epoch - 1, length - 1):
        share = (step // epoch) / (length // epoch)
        assert rate * schedule.lr_lambdas[0](step) == pytest.approx(rate * (1 - share) ** 0.9)
    assert module.total(dict.fromkeys(SUM, torch.ones(2))) == pytest.approx(sum(weights.values()))
    logits, target = torch.zeros(1, 1, 1, 4), torch.tensor([[[1.0, 0.0, 0.0, 255.0]]])
    expected = (positive + 2 * (1 - positive)) / 3 * torch.log(torch.tensor(2.0))
    torch.testing.assert_close(module.losses["edge"](logits, target), expected[None])
    special = module.model.decoder.auxiliary_losses.get("labels", {})
    if "edge" in special:
        torch.testing.assert_close(special["edge"](logits.expand(1, 2, 1, 4), target), expected[None])
    scaled = [group["initial_lr"] for group in found.param_groups[1:]]
    assert scaled == ([pytest.approx(100 * rate)] if name in ("cross_stitch", "nddr") else [])


def test_a_recipe_of_one_dataset_is_refused_for_another():
    with pytest.raises(InterpolationKeyError, match=r"recipe\.pascal_context\.steps"):
        mtmamba.load_config(["experiment=peers/mtan", "data=pascal_context"])
