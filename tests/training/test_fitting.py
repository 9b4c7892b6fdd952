"""A checkpoint that is not of a run like the one that would go on with it is refused before anything is trained."""

import copy
from functools import partial

import pytest
import torch
from timm.optim import create_optimizer_v2

import mtmamba
from mtmamba import build
from mtmamba.checkpoints import CheckpointError
from mtmamba.training.fitting import require_fitting

TOY = ("encoder=swin_micro", "decoder=concat_head", "tasks=[depth]")


def counts(step):
    """Lightning's, as far as a run goes on with them."""
    progress = {"optimizer": {"step": {"total": {"completed": step}}}}
    return {"fit_loop": {"epoch_loop.automatic_optimization.optim_progress": progress}}


def trained(module):
    """A checkpoint after one step of the module's optimiser and schedule."""
    made = module.configure_optimizers()
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    made["optimizer"].step()
    schedules = [made["lr_scheduler"]["scheduler"]] if "lr_scheduler" in made else []
    for schedule in schedules:
        schedule.step()
    return {
        "state_dict": module.state_dict(),
        "global_step": 1,
        "pytorch-lightning_version": "2.5.0",
        "loops": counts(1),
        "optimizer_states": [made["optimizer"].state_dict()],
        "lr_schedulers": [schedule.state_dict() for schedule in schedules],
    }


@pytest.fixture(scope="module")
def module():
    return build.build_module(mtmamba.load_config(TOY))


@pytest.fixture(scope="module")
def content(module):
    return trained(module)


@pytest.fixture
def odd(content):
    return copy.deepcopy(content)


def test_a_run_without_a_schedule_goes_on(tmp_path):
    """Which would have left a mark of its own in the optimiser's groups."""
    module = build.build_module(mtmamba.load_config([*TOY, "optimizer.schedule=null"]))
    require_fitting(trained(module), module, tmp_path)


def test_steps_counted_in_whole_numbers_as_once_go_on(odd, module, tmp_path):
    for values in odd["optimizer_states"][0]["state"].values():
        values["step"] = int(values["step"])
    require_fitting(odd, module, tmp_path)


def test_what_training_wrote_is_gone_on_with_and_the_module_stays_as_it_was(content, module, tmp_path):
    before = copy.deepcopy(module.state_dict())
    require_fitting(content, module, tmp_path)
    assert all(torch.equal(x, before[name]) for name, x in module.state_dict().items())


@pytest.mark.parametrize("choice", ["decoder=cross_stitch", "encoder.lr_scale=0.5", "optimizer=sgd", "optimizer=adam"])
def test_an_optimisers_state_is_numbered_by_its_groups(tmp_path, choice):
    module = build.build_module(mtmamba.load_config(["tasks=[depth,edge]", choice]))
    require_fitting(trained(module), module, tmp_path)


@pytest.mark.parametrize("name", ["adafactor", "lamb", "lookahead_adam", "sgd", "rmsprop"])
def test_optimisers_of_timms_go_on_with_their_own_states(name, module, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "optimizer", partial(create_optimizer_v2, opt=name, lr=0.01))
    content = trained(module)
    require_fitting(content, module, tmp_path)
    content["optimizer_states"][0]["state"] = {}
    with pytest.raises(CheckpointError, match=r"got (nothing|another): use another checkpoint"):
        require_fitting(content, module, tmp_path)


def test_an_optimisers_state_in_other_shapes_is_refused(odd, module, tmp_path):
    sound = odd["optimizer_states"][0]["state"][2]["exp_avg"]
    odd["optimizer_states"][0]["state"][2]["exp_avg"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"exp_avg of model\..* real numbers .* got \(1,\) real"):
        require_fitting(odd, module, tmp_path)
    odd["optimizer_states"][0]["state"][2]["exp_avg"] = sound
    for number in (len(list(module.parameters())), -1, "0"):
        wrong = copy.deepcopy(odd)
        wrong["optimizer_states"][0]["state"][number] = wrong["optimizer_states"][0]["state"][0]
        with pytest.raises(CheckpointError, match=f"got one for number {number}"):
            require_fitting(wrong, module, tmp_path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c["optimizer_states"].clear(),
        lambda c: c["optimizer_states"].insert(0, 3),
        lambda c: c["optimizer_states"][0].pop("state"),
        lambda c: c["optimizer_states"][0].pop("param_groups"),
        lambda c: c["optimizer_states"][0]["param_groups"][0].update(lr="fast"),
        lambda c: c["optimizer_states"][0]["param_groups"][0].pop("betas"),
        lambda c: c["optimizer_states"][0]["state"][0].update(step="one"),
        lambda c: c["optimizer_states"][0]["state"][0].update(exp_avg=1.0),
        lambda c: c["optimizer_states"][0]["state"][0].pop("exp_avg_sq"),
        lambda c: c["optimizer_states"][0]["state"][0]["exp_avg"].fill_(float("nan")),
        lambda c: c.update(lr_schedulers=[3]),
        lambda c: c["loops"].pop("fit_loop"),
        lambda c: c.pop("pytorch-lightning_version"),
    ],
)
def test_what_lightning_cannot_go_on_with_is_refused_before_it_tries(damage, odd, module, tmp_path):
    damage(odd)
    with pytest.raises(CheckpointError, match=r"^Expected .*use another checkpoint"):
        require_fitting(odd, module, tmp_path)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda c: c["optimizer_states"][0]["state"].clear(), "what AdamW has gathered in 1 steps in .*, got nothing"),
        (lambda c: c.update(global_step=2), "global_step=2 of .* to be the count of the loops, too, got 1 there"),
        (lambda c: c.update(loops=counts(3)), "global_step=1 of .* to be the count of the loops, too, got 3 there"),
        (lambda c: c["loops"]["fit_loop"].clear(), "to be the count of the loops, too, got None there"),
        (lambda c: c["lr_schedulers"][0].update(last_epoch=0), "to be the count of the schedule, too, got 0 there"),
        (lambda c: c["lr_schedulers"].clear(), "the state of 1 schedules of the learning rate in .*, got 0"),
    ],
)
def test_what_lightning_would_go_on_with_in_silence_is_refused(damage, said, odd, module, tmp_path):
    damage(odd)
    with pytest.raises(CheckpointError, match=rf"{said}: use another checkpoint, or begin a new run"):
        require_fitting(odd, module, tmp_path)


def test_no_step_taken_under_a_scale_of_losses_leaves_no_state(odd, module, tmp_path):
    """In float16 the first steps are left out until the scale is small enough."""
    odd["optimizer_states"][0]["state"].clear()
    require_fitting(odd | {"MixedPrecision": {"scale": 65536.0}}, module, tmp_path)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.SGD, torch.optim.Adamax])
def test_another_optimisers_state_is_refused(kind, content, module, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "optimizer", partial(kind, lr=0.1))
    with pytest.raises(CheckpointError, match=rf"the state of one {kind.__name__} like this run's|got none: use"):
        require_fitting(content, module, tmp_path)


def test_adams_state_is_not_taken_for_adamws_of_any_version(odd, module, tmp_path):
    """Which sets in what it loads the one flag that tells the two apart, and had none before PyTorch 2.7."""
    (group,) = odd["optimizer_states"][0]["param_groups"]
    group["decoupled_weight_decay"] = False
    with pytest.raises(CheckpointError, match="the state of one AdamW like this run's"):
        require_fitting(odd, module, tmp_path)
    del group["decoupled_weight_decay"]
    require_fitting(odd, module, tmp_path)


def test_an_average_of_weights_needs_the_weights_themselves(odd, module, tmp_path):
    with pytest.raises(CheckpointError, match="Expected current_model_state of the checkpoint"):
        require_fitting(odd, module, tmp_path, averaged=True)
    odd |= {"current_model_state": dict(odd["state_dict"]), "averaging_state": {}}
    with pytest.raises(CheckpointError, match="Expected averaging_state/n_averaged of the checkpoint"):
        require_fitting(odd, module, tmp_path, averaged=True)
    odd["averaging_state"]["n_averaged"] = torch.tensor(1)
    require_fitting(odd, module, tmp_path, averaged=True)
    odd["current_model_state"].popitem()
    with pytest.raises(CheckpointError, match="it is of another network"):
        require_fitting(odd, module, tmp_path, averaged=True)
