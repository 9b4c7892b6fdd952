"""Settings that a call takes out, adds, or refers to: what would come to nothing is refused."""

import pytest
from omegaconf.errors import InterpolationResolutionError

import mtmamba
from mtmamba.answers import sentence
from mtmamba.build import build_callbacks
from mtmamba.config.settings import ConfigError


@pytest.mark.parametrize(
    "key",
    [
        "optimizer", "loss", "data", "data.root", "data.num_outputs", "model", "seed", "tasks", "experiment", "log_dir",
        "hydra.run.dir", "trainer.max_steps", "trainer.accelerator", "optimizer._target_",
        "callbacks.pictures._target_", "callbacks.checkpoint_every",
    ],
)  # fmt: skip
def test_what_something_relies_on_is_not_taken_out(key):
    with pytest.raises(ConfigError, match=rf"Expected {key} to have a value, got ~{key}, which takes it out"):
        mtmamba.load_config([f"~{key}"])


def test_callbacks_and_arguments_may_be_taken_out():
    cfg = mtmamba.load_config(["~callbacks.progress", "~optimizer.betas", "data=nyud", "~data.delta_m_base.edge"])
    assert len(build_callbacks(cfg)) == len(build_callbacks(mtmamba.load_config())) - 1
    assert "betas" not in cfg.optimizer
    assert set(cfg.data.delta_m_base) == {"semseg", "depth", "normals"}


@pytest.mark.parametrize("override", ["+odd=3", "+model.odd=3"])
def test_what_nothing_reads_is_refused(override):
    key = override.partition("=")[0]
    with pytest.raises(ConfigError, match=rf"Expected a setting that something reads, got \{key}: leave it out"):
        mtmamba.load_config([override])


def test_what_is_referred_to_or_built_may_be_added():
    added = "+callbacks.lr={_target_:lightning.pytorch.callbacks.LearningRateMonitor,logging_interval:'${callbacks.x}'}"
    cfg = mtmamba.load_config(["+wide=3", "seed=${wide}", "+callbacks.x=step", added, "label=${choices.decoder}-x"])
    assert (cfg.seed, cfg.label) == (3, "mtmamba-x")
    assert build_callbacks(cfg)[-1].logging_interval == "step"


@pytest.mark.parametrize("group", ["callbacks", "logger"])
def test_what_is_no_entry_of_a_group_is_refused(group):
    for override in (f"+{group}.x=3", f"+{group}.x.y=3"):
        with pytest.raises(ConfigError, match=rf"Expected {group}\.x to say with its _target_ what is to be built"):
            mtmamba.load_config([override])
    with pytest.raises(ConfigError, match=r"Expected logger\.csv to say with its _target_ what is .*, got 3"):
        mtmamba.load_config(["logger.csv=3"])
    assert len(build_callbacks(mtmamba.load_config(["callbacks.progress=null"]))) == 3


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("optimizer._target_=3", r"optimizer\._target_ to be the name of a class or a function, got 3"),
        ("decoder.cross._target_=[a]", r"decoder\.cross\._target_ to be the name of a class or a function, got \[a\]"),
        ("decoder.cross._partial_=x", r"decoder\.cross\._partial_ to be true or false, got x"),
    ],
)
def test_hydras_own_keys_have_their_types(override, said):
    with pytest.raises(ConfigError, match=f"^Expected {said}: correct it"):
        mtmamba.load_config([override])


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("${nope}", "Expected a setting nope, which data.scenes.train refers to, got none: correct data.scenes.train."),
        ("${oc.env:NOPE}", "the environment variable NOPE, which data.scenes.train refers to, got none: set it."),
        ("${data.scenes.train}", "Expected data.scenes.train to refer to a value, got what leads to none: correct it."),
        ("${odd:1}", "Expected data.scenes.train to refer to a value, got what leads to none: correct it."),
    ],
)
def test_what_refers_to_nothing_is_said_in_our_words(value, said):
    for override in (f"data.scenes.train={value}", f"data.scenes={{train:{value}}}"):
        with pytest.raises(InterpolationResolutionError) as refused:
            mtmamba.load_config([override])
        assert said in sentence(refused.value, "train")
