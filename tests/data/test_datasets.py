import struct
from dataclasses import replace
from hashlib import blake2b

import cv2
import numpy as np
import pytest
import scipy.io
import scipy.ndimage
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

import fake_data
from mtmamba.cache import cached
from mtmamba.data.datasets import get_dataset, register
from mtmamba.data.datasets.pascal_labels import HAS_NORMALS, boundaries, human_parts
from mtmamba.data.dense import DenseDataset
from mtmamba.data.layouts import DatasetError
from mtmamba.data.sampler import sample_key
from mtmamba.metrics.boundary.thinning import thin

NYUD_TASKS = ["semseg", "depth", "normals", "edge"]
PASCAL_TASKS = ["semseg", "human_parts", "sal", "normals", "edge"]


@pytest.fixture
def nyud(tmp_path):
    return fake_data.write_nyud(tmp_path / "NYUDv2")


@pytest.fixture
def pascal(tmp_path):
    return fake_data.write_pascal(tmp_path / "PASCALContext")


def keep(sample, rng):
    return {**sample, "draw": rng.random()}


def open_nyud(root, tasks=NYUD_TASKS, **kwargs):
    return DenseDataset("nyud", root, "train", tasks, keep, cache_dir=root.parent / "cache", **kwargs)


def open_pascal(root, tasks=PASCAL_TASKS):
    return DenseDataset("pascal_context", root, "train", tasks, keep, cache_dir=root.parent / "cache")


def test_nyud_targets_follow_the_files(nyud):
    files = {k: np.array(Image.open(nyud / f"{k}/0002.png")) for k in ("images", "segmentation", "normals", "edge")}
    metres = np.load(nyud / "depth/0002.npy")
    metres[3, 4] = 0
    np.save(nyud / "depth/0002.npy", metres.astype(np.float64))
    files["normals"][5, 6] = (127, 128, 127)
    fake_data.write_png(nyud / "normals/0002.png", files["normals"])

    sample = open_nyud(nyud).read(1)

    assert sample["id"] == "0002"
    assert (sample["image"] == files["images"]).all()
    unlabelled = files["segmentation"] == 0
    assert unlabelled.any()
    assert (sample["semseg"][unlabelled] == 255).all()
    assert (sample["semseg"][~unlabelled] == files["segmentation"][~unlabelled] - 1).all()
    assert set(np.unique(sample["edge"])) == {0, 1}
    assert (sample["edge"] == files["edge"] / 255).all()
    assert sample["depth"][3, 4] == 255
    assert (np.delete(sample["depth"].ravel(), 3 * 32 + 4) == np.delete(metres.ravel(), 3 * 32 + 4)).all()
    assert (sample["normals"][5, 6] == 255).all()
    n = 2 * files["normals"][0, 0].astype(float) / 255 - 1
    np.testing.assert_allclose(sample["normals"][0, 0], n / np.sqrt((n * n).sum()), atol=1e-6)
    types = {name: (value.dtype.name, value.shape) for name, value in sample.items() if name != "id"}
    assert types == {
        "image": ("uint8", (24, 32, 3)),
        "semseg": ("uint8", (24, 32)),
        "edge": ("uint8", (24, 32)),
        "depth": ("float32", (24, 32)),
        "normals": ("float32", (24, 32, 3)),
    }


def test_pascal_targets_follow_the_files(pascal):
    name = "2008_000001"
    saliency = np.array(Image.open(pascal / f"sal_distill/{name}.png"))
    labels = scipy.io.loadmat(pascal / f"pascal-context/trainval/{name}.mat")["LabelMap"]
    sample = open_pascal(pascal).read(1)

    assert (sample["image"] == cv2.imread(str(pascal / f"JPEGImages/{name}.jpg"))[..., ::-1]).all()
    assert (sample["semseg"] == np.array(Image.open(pascal / f"semseg/VOC12/{name}.png"))).all()
    assert (sample["sal"] == (saliency / 255 > 0.5)).all()
    ignored = (sample["normals"] == 255).all(-1)
    assert (ignored == np.isin(labels, [5, 459])).all()  # 3 and 4 are classes with normals
    assert 0 < ignored.mean() < 1
    np.testing.assert_allclose(np.linalg.norm(sample["normals"][~ignored], axis=-1), 1, atol=1e-5)
    assert (sample["human_parts"][2:8, 3:9] == 1).all()
    assert (sample["human_parts"][8:14, 3:9] == 2).all()
    assert (sample["human_parts"] > 0).sum() == 72
    assert (open_pascal(pascal).read(0)["human_parts"] == 255).all()
    second_difference = np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]])
    band = scipy.ndimage.correlate(labels.astype(int), second_difference, mode="mirror") != 0
    assert (sample["edge"][~band] == 0).all()
    assert 0 < sample["edge"].sum() < band.sum()


def test_pascal_semseg_falls_back_and_reads_palettes(pascal):
    source = pascal / "semseg/VOC12/2008_000000.png"
    classes = np.array(Image.open(source))
    indexed = Image.fromarray(classes, mode="P")
    indexed.putpalette(np.random.default_rng(0).integers(0, 256, 768, dtype=np.uint8).tobytes())
    (pascal / "semseg/pascal-context").mkdir()
    indexed.save(pascal / "semseg/pascal-context/2008_000000.png")
    source.unlink()
    assert (open_pascal(pascal, ["semseg"]).read(0)["semseg"] == classes).all()


def test_only_the_selected_tasks_files_are_read(nyud):
    (nyud / "depth/0001.npy").unlink()
    assert set(open_nyud(nyud, ["edge"]).read(0)) == {"image", "edge", "id"}
    with pytest.raises(DatasetError, match=r"depth/0001.npy"):
        open_nyud(nyud, ["depth"]).read(0)
    with pytest.raises(ValueError, match="sal"):
        open_nyud(nyud, ["sal"])


def test_draws_and_keys_depend_on_seed_epoch_and_index(nyud):
    samples = {(s, e, i): open_nyud(nyud, ["edge"], seed=s)[(e, i)] for s in (0, 1) for e in (0, 1) for i in (0, 1)}
    assert len({sample["draw"] for sample in samples.values()}) == 8
    for (seed, epoch, index), sample in samples.items():
        digest = blake2b(struct.pack("<qqq", seed, epoch, index), digest_size=8).digest()
        assert sample["key"].item() == struct.unpack("<Q", digest)[0] % 2**63
        assert sample["draw"] == np.random.default_rng([seed, epoch, index]).random()
    assert open_nyud(nyud, ["edge"])[1]["key"] == sample_key(0, 0, 1)


def write_bytes_shorter(path):
    path.write_bytes(path.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("images/0001.png", write_bytes_shorter, "complete PNG"),
        ("segmentation/0001.png", write_bytes_shorter, "complete PNG"),
        ("edge/0001.png", lambda path: path.write_bytes(b""), "0 bytes"),
        ("depth/0001.npy", write_bytes_shorter, "complete .npy"),
        ("depth/0001.npy", lambda path: np.save(path, np.full((24, 32), 1500.0)), "1500..1500"),
        ("depth/0001.npy", lambda path: np.save(path, np.full((24, 32), np.nan)), "got nan"),
        ("depth/0001.npy", lambda path: np.save(path, np.full((24, 32), -1.0)), "-1..-1"),
        ("depth/0001.npy", lambda path: np.save(path, np.ones((24, 32), int)), "float array"),
        ("segmentation/0001.png", lambda path: fake_data.write_png(path, np.full((24, 32), 41, np.uint8)), "0..40"),
        ("segmentation/0001.png", lambda path: fake_data.write_png(path, np.ones((24, 32, 3), np.uint8)), "channel"),
        ("edge/0001.png", lambda path: fake_data.write_png(path, np.ones((24, 32), np.uint8)), "0 and 255"),
        ("normals/0001.png", lambda path: fake_data.write_png(path, np.ones((9, 9, 3), np.uint8)), r"\(9, 9\)"),
    ],
)
def test_a_broken_nyud_file_is_named(nyud, file, damage, message):
    damage(nyud / file)
    with pytest.raises(DatasetError, match=message) as error:
        open_nyud(nyud).read(0)
    assert str(nyud / file) in str(error.value)
    assert "archive" in str(error.value)


def save_map(path, values):
    scipy.io.savemat(path, {"LabelMap": values})


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("JPEGImages/2008_000000.jpg", write_bytes_shorter, "complete PNG or JPEG"),
        ("semseg/VOC12/2008_000000.png", lambda p: fake_data.write_png(p, np.full((24, 32), 21, np.uint8)), "0..20"),
        ("pascal-context/trainval/2008_000000.mat", write_bytes_shorter, "LabelMap"),
        ("pascal-context/trainval/2008_000000.mat", lambda p: p.write_bytes(b"no"), "LabelMap"),
        ("pascal-context/trainval/2008_000000.mat", lambda p: save_map(p, np.full((24, 32), 460)), "0..459"),
        ("pascal-context/trainval/2008_000000.mat", lambda p: save_map(p, np.ones((9, 9), int)), r"\(9, 9\)"),
        ("human_parts/2008_000000.mat", lambda p: scipy.io.savemat(p, {"other": 1}), "anno"),
        (
            "human_parts/2008_000000.mat",
            lambda p: fake_data.write_parts(p, [(15, [("tail", np.ones((24, 32)))])]),
            "'tail'",
        ),
        (
            "human_parts/2008_000000.mat",
            lambda p: fake_data.write_parts(p, [(15, [("head", np.ones((9, 9)))])]),
            "size",
        ),
    ],
)
def test_a_broken_pascal_file_is_named(pascal, file, damage, message):
    damage(pascal / file)
    with pytest.raises(DatasetError, match=message) as error:
        open_pascal(pascal).read(0)
    assert "2008_000000" in str(error.value)


def test_every_part_of_a_person_has_its_class(tmp_path):
    names = {
        1: "head hair lear rear lebrow rebrow leye reye mouth nose",
        2: "torso neck",
        3: "luarm ruarm",
        4: "llarm rlarm lhand rhand",
        5: "luleg ruleg",
        6: "llleg rlleg lfoot rfoot",
    }
    expected = [(name, number) for number, group in names.items() for name in group.split()]
    masks = np.eye(24, dtype=bool)[:, None].repeat(2, axis=1)  # one column a part
    parts = [(name, mask) for (name, _), mask in zip(expected, masks, strict=True)]
    fake_data.write_parts(tmp_path / "a.mat", [(12, [("tail", masks[0])]), (15, parts)])
    target = human_parts(tmp_path / "a.mat", (tmp_path / "a.mat").read_bytes(), (2, 24))
    assert target[0].tolist() == [number for _, number in expected]


def test_a_later_person_overwrites(tmp_path):
    both, left = np.ones((2, 2), bool), np.array([[True, False], [True, False]])
    fake_data.write_parts(tmp_path / "a.mat", [(15, [("lfoot", both)]), (15, [("neck", left)])])
    data = (tmp_path / "a.mat").read_bytes()
    assert human_parts(tmp_path / "a.mat", data, (2, 2)).tolist() == [[2, 6], [2, 6]]


def test_170_classes_have_normals():
    assert HAS_NORMALS.shape == (460,)
    assert HAS_NORMALS.sum() == 170
    assert HAS_NORMALS[[3, 457]].all()
    assert not HAS_NORMALS[[0, 1, 2, 459]].any()


def test_boundaries_of_two_halves_are_one_pixel_wide():
    labels = np.repeat(np.array([[2, 300]], np.uint16), 4, axis=1).repeat(6, axis=0)
    assert boundaries(labels).sum(axis=1).max() == 1
    assert boundaries(labels)[:, [0, 1, 2, 5, 6, 7]].sum() == 0
    assert boundaries(np.full((5, 5), 7, np.uint16)).sum() == 0


@given(arrays(bool, (12, 15)))
def test_thinning_keeps_connectedness_and_is_final(mask):
    """Foreground by 8 neighbours, background by 4, counted by scipy."""

    def components(image):
        outside = np.pad(~image, 1, constant_values=True)
        return scipy.ndimage.label(image, np.ones((3, 3)))[1], scipy.ndimage.label(outside)[1]

    thinned = thin(mask)
    assert (thinned <= mask).all()
    assert components(thinned) == components(mask)
    assert (thin(thinned) == thinned).all()


@given(st.integers(3, 12), st.integers(3, 12))
def test_a_thinned_rectangle_is_a_line(height, width):
    mask = np.zeros((height + 4, width + 4), bool)
    mask[2:-2, 2:-2] = True
    thinned = thin(mask)
    squares = thinned[1:, 1:] & thinned[1:, :-1] & thinned[:-1, 1:] & thinned[:-1, :-1]
    assert not squares.any()


def test_cache_computes_once_and_mends_damage(tmp_path):
    calls = []

    def compute():
        calls.append(1)
        return np.arange(6, dtype=np.uint8).reshape(2, 3)

    def get(kind="k", source=b"s"):
        return cached(tmp_path, kind, source, compute).tolist()

    assert get() == get() == [[0, 1, 2], [3, 4, 5]]
    assert len(calls) == 1
    get("other")
    get(source=b"t")
    assert len(calls) == 3
    for path in tmp_path.rglob("*.npy.z"):
        path.write_bytes(path.read_bytes()[:-3])
    assert get() == get() == [[0, 1, 2], [3, 4, 5]]
    assert len(calls) == 4
    assert not list(tmp_path.rglob("*.tmp"))


def test_an_unwritable_cache_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file.*set cache_dir=") as error:
        cached(tmp_path / "file", "k", b"", lambda: np.zeros(1))
    assert "Expected a writable cache folder" in str(error.value)


def test_boundaries_come_from_the_cache(pascal, monkeypatch):
    expected = open_pascal(pascal, ["edge"]).read(0)["edge"]
    monkeypatch.setattr("mtmamba.data.datasets.pascal_context.boundaries", lambda labels: pytest.fail("computed again"))
    assert (open_pascal(pascal, ["edge"]).read(0)["edge"] == expected).all()


def test_ids_may_hold_folders(nyud):
    (nyud / "gt_sets/val.txt").write_text("attic/0001\ncellar/00.2\n")
    assert get_dataset("nyud").read_ids(nyud, "val") == ["attic/0001", "cellar/00.2"]
    (nyud / "gt_sets/val.txt").write_text("0001" * 10**6)  # no file can be named so, nor a sentence hold it
    with pytest.raises(DatasetError, match=r"an id such as 0001 .*, got '0001[01]{36}' and more\. "):
        get_dataset("nyud").read_ids(nyud, "val")


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "empty file"), ("0001\n0002\n0001\n", "'0001' twice"), ("0001 0002\n", "'0001 0002'"), ("../b\n", "'../b'")],
)
def test_a_malformed_list_is_named(nyud, text, message):
    (nyud / "gt_sets/val.txt").write_text(text)
    with pytest.raises(DatasetError, match=message) as error:
        get_dataset("nyud").read_ids(nyud, "val")
    assert "gt_sets/val.txt" in str(error.value)


def test_a_dataset_does_not_hide_behind_anothers_name():
    record = get_dataset("nyud")
    for change in ({"name": "NYUDv2"}, {"name": "mine", "aliases": ("pascal_context",)}):
        with pytest.raises(ValueError, match=r"a name and aliases of dataset \w+ that no other has, got \w+ of .*: "):
            register(replace(record, **{"aliases": ()} | change))
    register(replace(record, title="Rooms"))  # its own name again replaces it
    assert get_dataset("NYUDv2").title == "Rooms"
    register(record)
