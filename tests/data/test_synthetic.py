"""Synthetic scenes: exact labels that agree with one another and with the geometry, files that depend on no chance."""

import hashlib
import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
import scipy.io

from mtmamba.data.synthetic import build, generate, make_scene, render
from mtmamba.data.synthetic.geometry import Material, Primitive, ball, box, intersect, surface, tilted, tube
from mtmamba.data.synthetic.kinds import KINDS, part_class
from mtmamba.data.synthetic.raycast import Maps, rays, windows
from mtmamba.data.synthetic.write import salient

SIZE = (48, 64)
GREY = Material(((0.5, 0.5, 0.5),))
LAYOUTS = ("nyud", "pascal")


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def nyud(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("data") / "nyud", layout="nyud", train=3, val=2, size=SIZE, workers=1)


@pytest.fixture(scope="module")
def pascal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("data") / "pascal", layout="pascal", train=6, val=2, size=SIZE, workers=1)


@pytest.fixture(scope="module")
def scenes() -> dict[str, list[Maps]]:
    return {
        layout: [render(layout, (72, 96), seed=5, split="val", index=i)[1] for i in range(10)] for layout in LAYOUTS
    }


# --- solids -------------------------------------------------------------------------------------------------------


def inside(solid: Primitive, points: np.ndarray) -> np.ndarray:
    """Membership straight from the definition: undo move, turn and scale of ``points`` (N, 3), then the unit shape."""
    x, y, z = (((points - solid.centre) @ solid.rotation) / solid.half).T.astype(np.float64)
    kx, ky = (1 + (k - 1) * (z + 1) / 2 for k in solid.taper)
    if solid.shape == "sphere":
        return x**2 + y**2 + z**2 <= 1
    if solid.shape == "cylinder":
        return (x**2 + y**2 <= kx**2) & (abs(z) <= 1)
    return (abs(x) <= kx) & (abs(y) <= ky) & (abs(z) <= 1)


SOLIDS = [
    tilted(box("wall", GREY, (-1, -0.5, -0.7), (0.6, 0.8, 0.9)), 0.4),
    tilted(box("wall", GREY, (-1, -0.5, -0.7), (0.6, 0.8, 0.9), (0.3, 1.2)), 0.4),
    ball("wall", GREY, (0.1, 0.2, -0.1), (1.0, 0.4, 0.7)),
    tube("wall", GREY, (-0.6, 0.1, -0.5), (0.5, 0.4, 0.8), 0.4),
    tube("wall", GREY, (-0.6, 0.1, -0.5), (0.5, 0.4, 0.8), 0.5, 0.15),
]


@pytest.mark.parametrize("solid", SOLIDS, ids=["box", "tapered box", "ellipsoid", "cylinder", "tapered cylinder"])
def test_rays_enter_where_marching_enters(solid: Primitive) -> None:
    rng = np.random.default_rng(0)
    origin = np.array([3.0, -4.0, 2.0], np.float32)
    targets = rng.uniform(-1.6, 1.6, (300, 3)).astype(np.float32)
    directions = targets - origin
    t = intersect(solid, origin, directions.T)
    steps = np.arange(0, 2, 0.001)
    marched = np.array([inside(solid, origin + steps[:, None] * d) for d in directions])
    first = np.where(marched.any(1), steps[marched.argmax(1)], np.inf)
    chord = marched.sum(1)
    clear = (chord == 0) | (chord > 5)  # a ray that grazes the solid may fall between two steps
    assert np.array_equal(np.isfinite(t)[clear], np.isfinite(first)[clear])
    both = np.isfinite(t) & np.isfinite(first)
    assert both.sum() > 30
    assert np.all(np.abs(t[both] - first[both]) <= 0.0011)


@pytest.mark.parametrize("solid", SOLIDS, ids=["box", "tapered box", "ellipsoid", "cylinder", "tapered cylinder"])
def test_normals_separate_inside_from_outside(solid: Primitive) -> None:
    rng = np.random.default_rng(1)
    origin = np.array([-3.0, -2.0, 4.0], np.float32)
    directions = (rng.uniform(-0.5, 0.5, (400, 3)) - origin).astype(np.float32).T
    t = intersect(solid, origin, directions)
    points = (origin[:, None] + t * directions)[:, np.isfinite(t)]
    normals = surface(solid, points)[1]
    assert np.allclose(np.linalg.norm(normals, axis=0), 1, atol=1e-5)
    tangent = np.cross(normals.T, rng.normal(size=(points.shape[1], 3)))
    tangent *= 0.004 / np.linalg.norm(tangent, axis=1, keepdims=True)
    out, within = points.T + 0.002 * normals.T, points.T - 0.002 * normals.T
    # Both sides stay so a little further along the tangent plane, in nearly all places (all but those at an edge).
    assert np.mean(~inside(solid, out + tangent) & ~inside(solid, out - tangent)) > 0.97
    assert np.mean(inside(solid, within + tangent) & inside(solid, within - tangent)) > 0.95


def test_nothing_is_seen_outside_its_window() -> None:
    scene = make_scene("nyud", seed=2, split="train", index=0)
    directions = rays(scene.camera, SIZE, np.zeros((1, 2), np.float32))
    for solid, (top, bottom, left, right) in zip(scene.solids, windows(scene.solids, scene.camera, SIZE), strict=True):
        seen = np.isfinite(intersect(solid, scene.camera.position, directions.reshape(3, -1))).reshape(SIZE)
        seen[top:bottom, left:right] = False
        assert not seen.any()


# --- label maps ---------------------------------------------------------------------------------------------------


def unproject(maps: Maps) -> np.ndarray:
    """Camera coordinates ``(H, W, 3)`` from depth and intrinsics alone."""
    height, width = maps.depth.shape
    pixels = np.stack([*np.meshgrid(np.arange(width), np.arange(height)), np.ones((height, width))], -1)
    rays_ = pixels @ np.linalg.inv(maps.scene.camera.intrinsics((height, width)).astype(np.float64)).T
    return rays_ * maps.depth[..., None]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_normals_are_those_of_the_depth(scenes: dict[str, list[Maps]], layout: str) -> None:
    for maps in scenes[layout]:
        points, normals = unproject(maps), maps.normals
        assert np.all((np.linalg.norm(normals, axis=-1) > 0) == (maps.depth > 0))
        facing = np.einsum("hwc,hwc->hw", points, normals)
        assert np.all(facing[maps.depth > 0] < 1e-4)  # towards the viewer
        across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
        derived = np.cross(down, across)
        derived /= np.maximum(np.linalg.norm(derived, axis=-1, keepdims=True), 1e-12)
        same = maps.solid[1:-1, 1:-1] >= 0
        for y, x in ((0, 1), (2, 1), (1, 0), (1, 2)):
            there = np.s_[y : y + same.shape[0], x : x + same.shape[1]]
            same &= (maps.solid[there] == maps.solid[1:-1, 1:-1]) & np.all(
                np.abs(normals[there] - normals[1:-1, 1:-1]) < 1e-5, axis=-1
            )
        flat = np.einsum("hwc,hwc->hw", derived, normals[1:-1, 1:-1])[same]
        assert flat.size > 500
        assert np.all(flat > np.cos(np.radians(1.5)))


def test_depth_and_normals_satisfy_the_equation_of_an_ellipsoid(scenes: dict[str, list[Maps]]) -> None:
    checked = 0
    for maps in scenes["pascal"]:
        camera = maps.scene.camera
        world = unproject(maps) @ camera.axes().astype(np.float64) + camera.position
        for i, solid in enumerate(maps.scene.solids):
            seen = maps.solid == i
            if solid.shape == "sphere" and solid.kind != "mountain" and seen.sum() > 3:
                local = (world[seen] - solid.centre) @ solid.rotation / solid.half
                assert np.allclose(np.sum(local**2, 1), 1, atol=0.02)
                gradient = (local / solid.half) @ solid.rotation.T @ camera.axes().T
                gradient /= np.linalg.norm(gradient, axis=1, keepdims=True)
                assert np.allclose(gradient, maps.normals[seen], atol=0.02)
                checked += 1
    assert checked > 10


@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_lie_on_people_only(scenes: dict[str, list[Maps]], layout: str) -> None:
    found = set()
    for maps in scenes[layout]:
        assert np.array_equal(maps.parts() > 0, maps.classes("voc") == 15)
        found |= set(np.unique(maps.parts()))
    assert found == set(range(7))


@pytest.mark.parametrize(("layout", "column"), [("nyud", "nyud"), ("pascal", "context")])
def test_classes_are_varied(scenes: dict[str, list[Maps]], layout: str, column: str) -> None:
    counts = np.bincount(np.concatenate([maps.classes(column).ravel() for maps in scenes[layout]]), minlength=460)
    assert counts[0] == 0
    assert counts.max() < 0.6 * counts.sum()
    assert np.count_nonzero(counts > 0.001 * counts.sum()) >= 8


def test_voc_background_leaves_room(scenes: dict[str, list[Maps]]) -> None:
    voc = np.concatenate([maps.classes("voc").ravel() for maps in scenes["pascal"]])
    assert 0.05 < np.mean(voc > 0) < 0.7
    share = [salient(maps).mean() for maps in scenes["pascal"]]
    assert np.mean(np.array(share) > 0) >= 0.8
    assert max(share) < 0.8


def test_photographs_show_light_and_dark() -> None:
    for layout in LAYOUTS:
        image, _ = render(layout, SIZE, seed=0, split="train", index=1)
        assert image.shape == (*SIZE, 3)
        assert 60 < image.mean() < 220
        assert image.std() > 20


def test_kinds_are_numbered_consistently() -> None:
    voc_of: dict[int, set[int]] = {}
    for kind in KINDS.values():
        assert 0 <= kind.nyud <= 40
        assert 0 <= kind.voc <= 20
        assert 1 <= kind.context <= 459
        voc_of.setdefault(kind.context, set()).add(kind.voc)
    assert all(len(numbers) == 1 for numbers in voc_of.values())
    assert {kind.voc for kind in KINDS.values()} == set(range(21))
    assert {kind.nyud for kind in KINDS.values()} == set(range(41))


# --- files --------------------------------------------------------------------------------------------------------


def test_nyud_files(nyud: Path) -> None:
    ids = {split: (nyud / "gt_sets" / f"{split}.txt").read_text().split() for split in ("train", "val")}
    assert ids == {"train": ["0001", "0002", "0003"], "val": ["0004", "0005"]}
    for split in ("train", "val"):
        for index, name in enumerate(ids[split]):
            image, maps = render("nyud", SIZE, seed=0, split=split, index=index)
            stored = cv2.imread(str(nyud / "images" / f"{name}.png"))[..., ::-1]
            classes = cv2.imread(str(nyud / "segmentation" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
            depth = np.load(nyud / "depth" / f"{name}.npy")
            normals = cv2.imread(str(nyud / "normals" / f"{name}.png"))[..., ::-1] * (2 / 255) - 1
            edge = cv2.imread(str(nyud / "edge" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
            assert np.array_equal(stored, image)
            assert classes.dtype == np.uint8
            assert np.array_equal(classes, maps.classes("nyud"))
            assert classes.min() >= 1
            assert depth.dtype == np.float32
            assert np.array_equal(depth, maps.depth)
            assert 0.2 < depth.min() < depth.max() < 12
            assert np.abs(normals - maps.normals).max() <= 1 / 255 + 1e-6
            expected = np.zeros(SIZE, bool)
            for y in range(SIZE[0]):
                for x in range(SIZE[1]):
                    here = classes[y, x]
                    expected[y, x] = here != classes[max(y - 1, 0), x] or here != classes[y, max(x - 1, 0)]
            assert np.array_equal(edge, expected * 255)


def test_pascal_files(pascal: Path) -> None:
    ids = [
        *(pascal / "ImageSets/Context/train.txt").read_text().split(),
        *(pascal / "ImageSets/Context/val.txt").read_text().split(),
    ]
    assert ids == [f"2008_{i:06d}" for i in range(1, 9)]
    context_to_voc = {kind.context: kind.voc for kind in KINDS.values()}
    people = 0
    for name in ids:
        assert cv2.imread(str(pascal / "JPEGImages" / f"{name}.jpg")).shape == (*SIZE, 3)
        voc = cv2.imread(str(pascal / "semseg/VOC12" / f"{name}.png"), cv2.IMREAD_UNCHANGED)
        labels = scipy.io.loadmat(pascal / "pascal-context/trainval" / f"{name}.mat")["LabelMap"]
        assert labels.shape == voc.shape == SIZE
        assert np.array_equal(np.vectorize(context_to_voc.get)(labels), voc)
        assert set(np.unique(cv2.imread(str(pascal / "sal_distill" / f"{name}.png"), cv2.IMREAD_UNCHANGED))) <= {0, 255}
        assert cv2.imread(str(pascal / "normals_distill" / f"{name}.png")).shape == (*SIZE, 3)
        annotation = scipy.io.loadmat(pascal / "human_parts" / f"{name}.mat")["anno"][0, 0]
        assert annotation["imname"][0] == name
        covered = np.zeros(SIZE, bool)
        for thing in annotation["objects"].ravel():
            mask = thing["mask"] > 0
            assert not (mask & covered).any()
            covered |= mask
            assert np.all(voc[mask] == thing["class_ind"][0, 0])
            assert (thing["class_ind"][0, 0] == 15) == (thing["class"][0] == "person")
            parts = [(part["part_name"][0], part["mask"] > 0) for part in thing["parts"].ravel()]
            assert bool(parts) == (thing["class"][0] == "person")
            if parts:
                people += 1
                assert np.array_equal(np.sum([m for _, m in parts], axis=0), mask)
                assert all(1 <= part_class(part) <= 6 for part, _ in parts)
        assert np.array_equal(covered, voc > 0)
    assert people > 0


def test_files_do_not_depend_on_the_number_of_workers(nyud: Path, pascal: Path, tmp_path: Path) -> None:
    for made, layout, train in ((nyud, "nyud", 3), (pascal, "pascal", 6)):
        again = generate(tmp_path / layout, layout=layout, train=train, val=2, size=SIZE, workers=2)
        assert digest(again) == digest(made)


def test_seed_and_split_choose_the_scenes() -> None:
    first = render("nyud", SIZE, seed=0, split="train", index=0)[0]
    for other in ({"seed": 1}, {"split": "val"}, {"index": 1}):
        assert not np.array_equal(first, render("nyud", SIZE, **({"seed": 0, "split": "train", "index": 0} | other))[0])


# --- the folder ---------------------------------------------------------------------------------------------------


def small(root: Path, **changes: object) -> Path:
    return generate(root, **({"layout": "nyud", "train": 1, "val": 1, "size": (32, 32), "workers": 1} | changes))  # type: ignore[arg-type]


def test_same_arguments_return_at_once_and_others_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    root = small(tmp_path / "data")
    assert json.loads((root / "synthetic.json").read_text())["size"] == [32, 32]
    monkeypatch.setattr(build, "render", lambda *_, **__: pytest.fail("made again"))
    assert small(root) == root
    assert [message.split(":")[0] for message in caplog.messages] == ["Making 2 scenes, once, which may take minutes"]
    with pytest.raises(FileExistsError, match="delete it, or choose another folder"):
        small(root, seed=1)
    (root / "synthetic.json").unlink()
    with pytest.raises(FileExistsError, match=r"no synthetic\.json: choose another folder, or .*data=nyud"):
        small(root)  # somebody's dataset, for all we know: nothing to delete


def test_a_crash_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = build.render

    def failing(*args: object, split: str, **options: object) -> object:
        if split == "val":
            raise MemoryError
        return real(*args, split=split, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(build, "render", failing)
    with pytest.raises(MemoryError):
        small(tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_two_at_once_both_succeed(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        roots = list(pool.map(lambda _: small(tmp_path / "data", train=3), range(2)))
    assert roots == [tmp_path / "data"] * 2
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert len(list((tmp_path / "data" / "images").iterdir())) == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layout": "coco"}, "layout"),
        ({"train": 0}, "one scene"),
        ({"val": 9999}, "9999"),
        ({"size": (16, 64)}, "size"),
        ({"seed": -1}, "seed"),
        ({"workers": 0}, "worker"),
    ],
)
def test_arguments_are_checked_first(tmp_path: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small(tmp_path / "data", **change)
    assert list(tmp_path.iterdir()) == []


def test_importing_the_generator_does_not_import_torch() -> None:
    code = "import sys, mtmamba.data.synthetic; sys.exit('torch' in sys.modules)"
    source = Path(build.__file__).parents[3]
    assert subprocess.run([sys.executable, "-c", code], cwd=source, check=False).returncode == 0
