# ruff: noqa: E501 - an input a line reads as a table
"""Predictions in files, folders of runs, photographs, and settings."""

import numpy as np

from bad_inputs import NYUD, TRAIN, bomb, cases, cut, instead, link, nothing, npy, pipe, png, remove, saved_as, write
from fake_data import SIZE

SEMSEG, DEPTH, EDGE = "made/semseg/0004.png", "made/depth/0004.npy", "made/edge/0004.png"

PREDICTIONS = cases(
    f"eval_predictions {NYUD} pred=made",
    {
        "no folder": (nothing, "Expected a folder of predictions, got no gone", "pred=gone"),
        "a file for the folder": (nothing, "Expected a folder of predictions, got no photo.png", "pred=photo.png"),
        "no folder of a task": (nothing, "got folders for []", "pred=rooms/lists"),
        "a task that has no folder": (remove("made/depth"), "got folders for ['semseg', 'normals', 'edge']", "tasks=[depth]"),
        "a file missing": (remove(SEMSEG), "1 missing: - semseg/0004.png"),
        "a file too many": (lambda f: (f / "made/semseg/0009.png").write_bytes((f / SEMSEG).read_bytes()), "1 extra: - semseg/0009.png: no such image in this split"),
        "a class that there is not": (png(SEMSEG, np.full(SIZE, 40, np.uint8)), "classes 0..39 in made/semseg/0004.png, got 40"),
        "classes in three channels": (png(SEMSEG, np.ones((*SIZE, 3), np.uint8)), "semseg/0004.png: expected 8-bit PNG of one channel"),
        "classes of another size": (png(SEMSEG, np.ones((9, 9), np.uint8)), "semseg/0004.png: expected the image's (24, 32), got (9, 9)"),
        "JPEG under the name of a PNG": (saved_as(SEMSEG, "JPEG"), "semseg/0004.png: expected 8-bit PNG of one channel or PNG with a palette, got JPEG"),
        "classes cut off": (cut(SEMSEG, -60), "semseg/0004.png"),
        "an empty file": (write(SEMSEG, b""), "semseg/0004.png"),
        "a PNG of 60000 x 60000 pixels": (write(SEMSEG, bomb(60000, 60000)), "semseg/0004.png"),
        "a pipe": (pipe(SEMSEG), "semseg/0004.png: expected 8-bit PNG of one channel or PNG with a palette, got no file but a pipe"),
        "a device": (instead(SEMSEG, lambda path: path.symlink_to("/dev/zero")), "got no file but a device"),
        "a link that leads nowhere": (link(SEMSEG, "gone.png"), "got no file but a link to gone.png that leads nowhere"),
        "a pipe for depth": (pipe(DEPTH), "depth/0004.npy: expected float32 array or float64 array, got no file but a pipe"),
        "depth in whole numbers": (npy(DEPTH, np.ones(SIZE, np.int64)), "depth/0004.npy: expected float32 array or float64 array, got int64 array"),
        "depth of rank 1": (npy(DEPTH, np.ones(768, np.float32)), "depth/0004.npy: expected the image's (24, 32), got (768,)"),
        "depth of rank 3": (npy(DEPTH, np.ones((1, *SIZE), np.float32)), "an array (h, w) in made/depth/0004.npy, got (1, 24, 32)"),
        "depth with NaN": (npy(DEPTH, np.full(SIZE, np.nan, np.float32)), "finite metres in made/depth/0004.npy"),
        "depth that is text": (write(DEPTH, "no array"), "depth/0004.npy: expected float32 array or float64 array, got no readable file"),
        "boundaries alone without a protocol": (nothing, "Expected a protocol for the edge task", "tasks=[edge] boundaries=null"),
    },
)  # fmt: skip

RUN = "run/checkpoints/last.ckpt"
BROKEN = {
    "a run's folder without checkpoints": (remove("run/checkpoints"), "Expected a checkpoint, or a run's folder with checkpoints/last.ckpt, got run"),
    "a run whose checkpoint is empty": (write(RUN, b""), "run/checkpoints/last.ckpt, which holds something else or is damaged"),
    "a run whose checkpoint is a folder": (instead(RUN, lambda path: path.mkdir()), "got run/checkpoints/last.ckpt, a folder: check the path"),
    "a run whose checkpoint is a pipe": (pipe(RUN), "got run/checkpoints/last.ckpt, a pipe: check the path"),
}  # fmt: skip
RUNS = [
    *cases("eval ckpt=run data.num_workers=0 trainer.accelerator=cpu", BROKEN),
    *cases(
        f"{TRAIN} resume=run",
        BROKEN
        | {
            "no such run": (nothing, "got gone, no such file: check the path", "resume=gone"),
            "a run of another learning rate": (nothing, "optimizer.lr=0.5 instead of", "optimizer.lr=0.5"),
            "a run of another network": (nothing, "decoder=stm1 instead of mtmamba", "decoder=stm1"),
            "a run of other tasks": (nothing, "instead of", "tasks=[depth]"),
        },
    ),
    *cases(
        "report runs=logs_of_mine",
        {
            "no such folder": (nothing, "logs_of_mine"),
            "a folder without runs": (lambda f: (f / "logs_of_mine").mkdir(), "logs_of_mine"),
        },
    ),
]  # fmt: skip

PHOTOS = cases(
    "predict ckpt=tiny.ckpt device=cpu save_dir=results source=photo.png",
    {
        "no such file": (remove("photo.png"), "Expected an image, a folder, a pattern or a video, got photo.png, no such file"),
        "a pattern that matches nothing": (nothing, "got nothing*.png, no such file", "source=nothing*.png"),
        "a folder without images": (nothing, "Expected images in the folder rooms/lists, got none", "source=rooms/lists"),
        "a pipe": (pipe("photo.png"), "got photo.png, a pipe"),
        "a link that leads nowhere": (link("photo.png", "gone.png"), "photo.png"),
        "a task that the model lacks": (nothing, "sal", "tasks=[sal]"),
        "a size that is no size": (nothing, "size", "size=enormous"),
        "a kind of result that there is not": (nothing, "or a list of some of them, got [video]", "save=[video]"),
        "a folder for results that holds files": (nothing, "Expected a new or empty save_dir, got rooms", "save_dir=rooms"),
        "a file for the folder of results": (nothing, "Expected a folder in save_dir, got the file tiny.ckpt", "save_dir=tiny.ckpt"),
        "a device that there is not": (nothing, "device", "device=tpu"),
        "a device that holds no numbers": (nothing, "a GPU such as cuda:0, got meta", "device=meta"),
        "a folder with a picture's name": (instead("photo.png", lambda path: path.mkdir()), "Expected images in the folder photo.png, got none"),
        "text": (write("photo.png", "no photograph"), "a whole image that Pillow reads in photo.png, got another kind of file"),
        "an empty file": (write("photo.png", b""), "Expected an image file, got photo.png, an empty file"),
        "cut off": (cut("photo.png", -60), "a whole image that Pillow reads in photo.png"),
        "a PNG of 60000 x 60000 pixels": (write("photo.png", bomb(60000, 60000)), "a whole image that Pillow reads in photo.png"),
        "a film that is none": (write("film.mp4", "no film"), "film.mp4", "source=film.mp4"),
    },
)  # fmt: skip

OVERRIDES = [
    *cases(
        TRAIN,
        {
            "a key that there is not": (nothing, "got encoder.windows: did you mean encoder.window?", "encoder.windows=7"),
            "a choice that there is not": (nothing, "got stm4: did you mean stm3?", "decoder=stm4"),
            "no key": (nothing, "Expected KEY=VALUE, got stm1", "stm1"),
            "an open bracket": (nothing, "put quotes around such a value", "tasks=[semseg"),
            "several values without -m": (nothing, "add -m for a run of each", "decoder=stm1,stm2"),
            "a batch of none": (nothing, "data.batch_size to be a whole number of at least 1, got 0", "data.batch_size=0"),
            "a batch that devices cannot share": (nothing, "device_batch_size", "data.device_batch_size=3"),
            "a crop that is one number": (nothing, "height and width", "data.crop_size=448"),
            "no tasks": (nothing, "a list of the dataset's tasks, got []", "tasks=[]"),
            "a task that nobody knows": (nothing, "got [semantics]", "tasks=[semantics]"),
            "a task twice": (nothing, "depth", "tasks=[depth,depth]"),
            "no steps": (nothing, "trainer.max_steps to be a whole number of at least 1, got 0", "trainer.max_steps=0"),
            "epochs": (nothing, "Expected no trainer.max_epochs", "trainer.max_epochs=3"),
            "an argument that Lightning lacks": (nothing, "trainer.max_stepz", "+trainer.max_stepz=3"),
            "a precision that there is not": (nothing, "precision", "trainer.precision=8"),
            "an accelerator that there is not": (nothing, "accelerator", "trainer.accelerator=npu9"),
            "an accelerator of PyTorch's alone": (nothing, "got meta", "trainer.accelerator=meta"),
            "a model to begin from that is a pipe": (pipe("photo.png"), "got photo.png, a pipe", "init=photo.png"),
            "a strategy that there is not": (nothing, "strategy", "trainer.strategy=dp9"),
            "a rate that is text": (nothing, "optimizer.lr to be a number above 0, got fast", "optimizer.lr=fast"),
            "a seed below 0": (nothing, "seed to be a whole number from 0", "seed=-1"),
            "a backend that there is not": (nothing, "got backend=rust", "backend=rust"),
            "a backend that this machine lacks": (nothing, "mamba_ssm", "backend=mamba_ssm data.batch_size=2"),
            "CUDA graphs without a GPU": (nothing, "Expected a GPU for cuda_graph=true", "cuda_graph=true"),
            "an ablation that the decoder lacks": (nothing, "Expected decoder=mtmamba with ablation=g0", "ablation=g0 decoder=stm1"),
            "a monitor that there is not": (nothing, "monitor", "monitor=val/beauty"),
            "partial labels by a share of 2": (nothing, "partial", "data.partial=random:2"),
            "an extension that there is not": (nothing, "Expected a Python file in extensions", "extensions=[mine.py]"),
            "a class that cannot be imported": (nothing, "to be importable", "optimizer._target_=mine.Adam"),
            "an optimiser's argument that it lacks": (nothing, "Expected settings of optimizer that its class takes", "+optimizer.momentum=0.9 data.batch_size=2"),
            "checkpointing of what there is not": (nothing, "checkpointing", "model.checkpointing=everything"),
            "more validation images needed": (nothing, "val_check_interval", "trainer.val_check_interval=0.5"),
            "a log_dir that is a file": (nothing, "photo.png", "log_dir=photo.png"),
            "a cache_dir that is a file": (nothing, "photo.png", "cache_dir=photo.png data=pascal_context data.root=PASCALContext"),
        },
    ),
    *cases("eval", {"no checkpoint": (nothing, "Expected ckpt=…, got none"), "a folder without a key": (nothing, "did you mean ckpt=logs/x?", "logs/x")}),
    *cases("eval ckpt=tiny.ckpt", {"a dataset for an evaluation": (nothing, "Expected the checkpoint's own dataset, got data=nyud", "data=nyud"), "scales of 0": (nothing, "tta.scales to be a list of numbers above 0", "tta.scales=[0]")}),
]  # fmt: skip
