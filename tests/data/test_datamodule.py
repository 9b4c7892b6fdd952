import signal
import subprocess
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, Dataset

import fake_data
from mtmamba.data.datamodule import DenseDataModule
from mtmamba.data.layouts import DatasetError
from mtmamba.data.sampler import GlobalBatchSampler, accumulation, evaluation_batches, sample_key

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*LeafSpec", "ignore:The dirpath has changed", "ignore:Checkpoint directory", "ignore:Be aware that when"
)


@pytest.fixture
def nyud(tmp_path):
    return fake_data.write_nyud(tmp_path / "NYUDv2", train=11)


def open_nyud(root, **kwargs):
    options = {"batch_size": 2, "num_workers": 0, "tasks": ["edge"], "val_batch_size": 2} | kwargs
    return DenseDataModule(dataset="NYUDv2", root=root, crop_size=(24, 32), cache_dir=root.parent / "cache", **options)


def test_a_crop_smaller_than_the_images_is_refused_before_training(nyud):
    fake_data.write_png(nyud / "images/0013.png", np.zeros((24, 40, 3), np.uint8))
    fake_data.write_png(nyud / "edge/0013.png", np.zeros((24, 40), np.uint8))
    with pytest.raises(ValueError, match=r"crop_size of at least \(24, 40\), .* got \(24, 32\)"):
        open_nyud(nyud).prepare_data()


class Handlers(Dataset):
    """Answers with what its process does on Ctrl-C."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        return signal.getsignal(signal.SIGINT) == signal.SIG_IGN


def test_ctrl_c_is_left_to_the_training_process(nyud):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin without
    options = open_nyud(nyud, num_workers=1).loading()
    assert [bool(ignored) for ignored in DataLoader(Handlers(), **options)] == [True]
    assert signal.getsignal(signal.SIGINT) != signal.SIG_IGN


def test_only_loaders_of_several_epochs_keep_their_processes(nyud):
    data = open_nyud(nyud, num_workers=1)
    data.setup()
    once = data.plain_dataloader("train"), data.plain_dataloader("val"), data.test_dataloader()
    assert not any(loader.persistent_workers for loader in once)
    assert data.val_dataloader().persistent_workers
    assert data.train_dataloader().persistent_workers


HELD = """
import os, signal, subprocess, sys
from mtmamba.data.datamodule import DenseDataModule
options = {"crop_size": (24, 32), "tasks": ["edge"], "batch_size": 2, "num_workers": 1}
data = DenseDataModule(dataset="nyud", root=sys.argv[1], **options)
data.setup()
loader = data.val_dataloader()
batches = iter(loader)
next(batches)
(worker,) = open(f"/proc/self/task/{os.getpid()}/children").read().split()
subprocess.run(["kill", worker], check=True)
subprocess.run(["kill", worker], check=True)
print("read", 1 + len([*batches]), flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="a handler cannot know the sender there")
def test_loading_goes_on_when_others_send_sigterm_and_ends_with_the_program_that_still_holds_it(tmp_path):
    """As where a cluster asks all processes, and where an error's traceback holds the trainer."""
    command = [sys.executable, "-c", HELD, str(fake_data.write_nyud(tmp_path / "NYUDv2", train=2, val=9))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert (done.stdout, done.stderr) == ("read 9\n", "")


class Recorder(LightningModule):
    """Notes every micro-batch's ids, keys and sum of pixels, under the number of optimiser steps made before it."""

    def __init__(self, fail_at=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.fail_at = fail_at
        self.seen, self.validated = [], []

    def training_step(self, batch, batch_idx):
        if len(self.seen) == self.fail_at:
            raise RuntimeError("power cut")
        self.seen.append((self.global_step, batch["id"], batch["key"].tolist(), batch["image"].sum().item()))
        return self.weight * batch["image"].mean()

    def validation_step(self, batch, batch_idx):
        self.validated += batch["id"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def fit(folder, data, *, max_steps, ckpt=None, fail_at=None, accumulate=1, **trainer):
    """Train with a checkpoint after every optimiser step; return the module."""
    model = Recorder(fail_at)
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=1, save_top_k=-1, auto_insert_metric_name=False)
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=max_steps,
        accumulate_grad_batches=accumulate,
        callbacks=[saver],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        **trainer,
    )
    if fail_at is None:
        trainer.fit(model, datamodule=data, ckpt_path=ckpt, weights_only=True)
    else:
        with pytest.raises(RuntimeError, match="power cut"):
            trainer.fit(model, datamodule=data, ckpt_path=ckpt, weights_only=True)
    return model


@pytest.mark.parametrize(("accumulate", "num_workers"), [(1, 0), (2, 0), (2, 2)])
def test_resumed_equals_uninterrupted(tmp_path, nyud, accumulate, num_workers):
    """11 images in batches of 4: two steps an epoch, three images left out; killed within micro-batches, twice."""

    def data():
        return open_nyud(nyud, batch_size=4, device_batch_size=4 // accumulate, num_workers=num_workers)

    whole = fit(tmp_path / "whole", data(), max_steps=7, accumulate=accumulate)
    assert len(whole.seen) == 7 * accumulate
    assert [step for step, *_ in whole.seen] == sorted([*range(7)] * accumulate)
    resumed = fit(tmp_path / "a", data(), max_steps=7, fail_at=2 * accumulate - 1, accumulate=accumulate)
    assert resumed.seen == whole.seen[: 2 * accumulate - 1]
    resumed = fit(
        tmp_path / "b", data(), max_steps=7, ckpt=tmp_path / "a/1.ckpt", fail_at=3 * accumulate, accumulate=accumulate
    )
    assert resumed.seen == whole.seen[accumulate : 4 * accumulate]
    resumed = fit(tmp_path / "c", data(), max_steps=7, ckpt=tmp_path / "b/4.ckpt", accumulate=accumulate)
    assert resumed.seen == whole.seen[4 * accumulate :]
    assert resumed.weight.item() == whole.weight.item()


@pytest.mark.parametrize("trainer", [{}, {"val_check_interval": 1}, {"limit_train_batches": 3}])
def test_resuming_from_every_step(tmp_path, nyud, trainer):
    """From within epochs, from their ends, and where Lightning's epochs are shorter than the data's (5 steps)."""
    whole = fit(tmp_path / "whole", open_nyud(nyud), max_steps=12, **trainer)
    assert len({tuple(key) for _, _, key, _ in whole.seen}) == 12
    for step in range(1, 12):
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*not resumable.*")
            ckpt = tmp_path / f"whole/{step}.ckpt"
            resumed = fit(tmp_path / "resumed", open_nyud(nyud), max_steps=12, ckpt=ckpt, **trainer)
        assert resumed.seen == whole.seen[step:], step
        assert resumed.weight.item() == whole.weight.item()


def test_a_checkpoint_of_other_batches_is_refused(tmp_path, nyud):
    fit(tmp_path, open_nyud(nyud), max_steps=3)
    for change in ({"seed": 1}, {"batch_size": 3}):
        with pytest.raises(ValueError, match=r"checkpoint's training images and batches.*num_samples.*11"):
            fit(tmp_path / "b", open_nyud(nyud, **change), max_steps=5, ckpt=tmp_path / "3.ckpt")


def test_a_checkpoint_amid_accumulation_is_refused(tmp_path, nyud):
    class Saver(ModelCheckpoint):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
            if batch_idx == 2:
                trainer.save_checkpoint(tmp_path / "amid.ckpt")

    data = open_nyud(nyud, batch_size=4, device_batch_size=2)
    trainer = Trainer(
        accelerator="cpu", max_steps=2, accumulate_grad_batches=2, callbacks=[Saver(tmp_path)], logger=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(Recorder(), datamodule=data)
    with pytest.raises(ValueError, match="after micro-batch 1 of 2"):
        fit(tmp_path / "b", data, max_steps=4, ckpt=tmp_path / "amid.ckpt", accumulate=2)


def test_a_trainer_of_another_accumulation_is_refused(tmp_path, nyud):
    with pytest.raises(ValueError, match=r"Trainer\(accumulate_grad_batches=2\).*got 1"):
        fit(tmp_path, open_nyud(nyud, batch_size=4, device_batch_size=2), max_steps=1)


def test_samples_depend_on_neither_workers_nor_order(nyud):
    def load(**kwargs):
        data = open_nyud(nyud, seed=3, **kwargs)
        data.setup()
        return {
            key: (name, image)
            for batch in data.train_dataloader()
            for key, name, image in zip(batch["key"].tolist(), batch["id"], batch["image"], strict=True)
        }

    alone, one, two = load(), load(num_workers=1), load(num_workers=2, batch_size=5)
    data = open_nyud(nyud, seed=3)
    data.setup()
    backwards = [data.train_dataset[(0, index)] for index in reversed(range(11))]
    for samples in (one, two, {s["key"].item(): (s["id"], s["image"]) for s in backwards}):
        shared = samples.keys() & alone.keys()
        assert len(shared) >= 9
        for key in shared:
            assert samples[key][0] == alone[key][0]
            assert torch.equal(samples[key][1], alone[key][1])
    assert not torch.equal(data.train_dataset[(1, 0)]["image"], data.train_dataset[(0, 0)]["image"])


def test_keys_stay_where_they_are_read(nyud):
    data = open_nyud(nyud)
    data.setup()
    moved = data.transfer_batch_to_device(next(iter(data.train_dataloader())), torch.device("meta"), 0)
    assert {name for name, x in moved.items() if isinstance(x, torch.Tensor) and not x.is_meta} == {"key"}


def test_validation_visits_every_image_once_in_order(nyud):
    data = open_nyud(nyud)
    data.setup()
    batches = list(data.val_dataloader())
    assert [name for batch in batches for name in batch["id"]] == ["0012", "0013", "0014"]
    assert batches[0]["image"].shape == (2, 3, 24, 32)
    assert batches[0]["edge"].shape == (2, 24, 32)
    assert [batch["id"] for batch in data.test_dataloader()] == [batch["id"] for batch in batches]


def test_preparing_checks_the_folder(nyud, caplog):
    data = open_nyud(nyud)
    with caplog.at_level("INFO"):
        data.prepare_data()
    assert "NYUDv2: 11 train, 3 val images" in caplog.text
    (nyud / "edge/0001.png").unlink()
    data.prepare_data()  # looks once
    with pytest.raises(DatasetError, match=r"edge/0001.png: missing"):
        open_nyud(nyud).prepare_data()
    with pytest.raises(DatasetError, match="no such file"):
        open_nyud(nyud / "elsewhere").setup()
    with pytest.raises(ValueError, match="Expected distinct tasks"):
        open_nyud(nyud, tasks=["sal"])


@pytest.mark.parametrize(("dataset", "layout"), [("nyud", "nyud"), ("PASCALContext", "pascal")])
def test_scenes_are_generated_first_and_called_such(tmp_path, monkeypatch, caplog, dataset, layout):
    calls = []

    def generate(root, **options):
        calls.append(options)
        {"nyud": fake_data.write_nyud, "pascal": fake_data.write_pascal}[layout](root)

    monkeypatch.setitem(sys.modules, "mtmamba.data.synthetic", SimpleNamespace(generate=generate))
    scenes = {"train": 6, "val": 3, "size": (24, 32), "seed": 7}
    data = DenseDataModule(
        dataset=dataset, root=tmp_path / "s", tasks=["semseg", "edge"], crop_size=(32, 32), batch_size=2, num_workers=0,
        scenes=scenes, cache_dir=tmp_path / "cache",
    )  # fmt: skip
    with caplog.at_level("INFO"):
        data.prepare_data()
    assert f"Synthetic scenes in the layout of {data.record.title}: " in caplog.text
    data.setup()
    assert calls == [{"layout": layout, **scenes}]
    assert len(list(data.train_dataloader())) == 3


@given(
    micro=st.integers(1, 3),
    processes=st.integers(1, 4),
    accumulate=st.integers(1, 3),
    extra=st.integers(0, 30),
    seed=st.integers(0, 5),
    first=st.integers(0, 9),
)
def test_processes_share_what_one_sees(micro, processes, accumulate, extra, seed, first):
    batch = micro * processes * accumulate
    count = batch + extra

    def stream(world_size, size):
        samplers = [
            GlobalBatchSampler(
                count, batch, size, rank=rank, world_size=world_size, seed=seed, first_step=lambda: first
            )
            for rank in range(world_size)
        ]
        return [list(sampler) for sampler in samplers], [len(sampler) for sampler in samplers]

    (alone,), _ = stream(1, batch)
    shared, lengths = stream(processes, micro)
    assert {len(mine) for mine in shared} == set(lengths) == {accumulate * (count // batch)}
    steps = [[key for mine in shared for key in mine[i]] for i in range(lengths[0])]
    merged = [[key for step in steps[i : i + accumulate] for key in step] for i in range(0, len(steps), accumulate)]
    assert merged == alone
    for step, keys in enumerate(alone, start=first):
        epoch, number = divmod(step, count // batch)
        order = np.random.default_rng([seed, epoch]).permutation(count)
        assert keys == [(epoch, index) for index in order[number * batch : (number + 1) * batch]]


def test_an_epoch_repeats_no_image_and_epochs_differ():
    first, second = (
        [key for batch in GlobalBatchSampler(10, 3, 3, first_step=lambda e=e: 3 * e) for key in batch] for e in (0, 1)
    )
    assert len({index for _, index in first}) == len(first) == 9
    assert {epoch for epoch, _ in first} == {0}
    assert {epoch for epoch, _ in second} == {1}
    assert [index for _, index in first] != [index for _, index in second]


@given(st.integers(1, 20), st.integers(1, 4), st.integers(1, 5))
def test_evaluation_is_shared_without_repeats(count, batch_size, world_size):
    shares = [evaluation_batches(count, batch_size, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert sorted(key for share in shares for batch in share for key in batch) == [(0, index) for index in range(count)]
    assert all(len(batch) <= batch_size for share in shares for batch in share)


def test_one_process_and_seed_0_go_without_saying():
    first = [key for batch in GlobalBatchSampler(7, 4, 2) for key in batch]
    assert first == [(0, index) for index in np.random.default_rng([0, 0]).permutation(7)[:4]]
    assert evaluation_batches(3, 2) == [[(0, 0), (0, 1)], [(0, 2)]]


def test_names_of_random_draws_stay():
    """By hashlib's blake2b of struct.pack's bytes: the last two digests had the sign bit, which is cleared."""
    keys = [(0, 0, 0), (1, 5, 92), (0, 0, 1), (65, 35, 8979)]
    assert [sample_key(*key) for key in keys] == [
        2891389769238885931, 2433111362184325060, 2342734901041564118, 5868777172222573413,
    ]  # fmt: skip


@pytest.mark.parametrize("sizes", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (-2, 1, 1), (4, 3, 1), (4, 2, 3)])
def test_sizes_below_1_and_fractions_of_a_batch_are_refused(sizes):
    with pytest.raises(ValueError, match=rf"got {sizes[0]} and {sizes[1]} x {sizes[2]}: change one of them"):
        accumulation(*sizes)


def test_batches_that_do_not_divide_are_refused(nyud):
    with pytest.raises(ValueError, match=r"multiple of data.device_batch_size x devices, got 8 and 3 x 1"):
        GlobalBatchSampler(20, 8, 3)
    with pytest.raises(ValueError, match="at least one batch of 8 training images, got 7"):
        GlobalBatchSampler(7, 8, 8)
    data = open_nyud(nyud, batch_size=8)
    assert [data.accumulate_grad_batches(n) for n in (1, 2, 8)] == [1, 1, 1]
    assert open_nyud(nyud, batch_size=8, device_batch_size=1).accumulate_grad_batches(4) == 2
    for world_size in (3, 16):
        with pytest.raises(ValueError, match="change one of them"):
            data.accumulate_grad_batches(world_size)


def test_importing_the_package_is_light():
    code = "import sys, mtmamba.data; sys.exit(any(name in sys.modules for name in ('torch', 'cv2', 'albumentations')))"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": "src"}).returncode == 0


def test_every_image_is_read_where_asked_for(nyud):
    """Of 11 training images the check of samples leaves some out; number 4 is one."""
    sound = open_nyud(nyud, check="all")
    sound.prepare_data()
    sound.setup()
    fake_data.write_png(nyud / "edge/0004.png", np.full(fake_data.SIZE, 9, np.uint8))
    sampled, whole = open_nyud(nyud), open_nyud(nyud, check="all")
    for data in (sampled, whole):
        data.prepare_data()
    sampled.setup()
    with pytest.raises(DatasetError, match=r"edge/0004\.png, got the values \[9\]"):
        whole.setup()


def test_fewer_validation_images_than_devices_are_refused_by_all(nyud):
    data = open_nyud(nyud)
    data.setup()
    data.trainer = SimpleNamespace(global_rank=0, world_size=4, num_devices=4)
    with pytest.raises(DatasetError, match=r"a val image for each of 4 devices, got 3 .* trainer\.devices=3"):
        data.val_dataloader()
    data.trainer.global_rank = 3
    with pytest.raises(SystemExit):
        data.val_dataloader()
    data.trainer.world_size = 3
    data.trainer.global_rank = 2
    assert [batch["id"] for batch in data.val_dataloader()] == [["0014"]]
