"""Getting datasets: servers that break off or lie, archives that climb out, official files, a check of every file."""

import io
import json
import os
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image

import fake_data
import mtmamba
from mtmamba.config.compose import compose, dataset_record
from mtmamba.data.datasets import folder, get_dataset
from mtmamba.data.datasets.folder.draft import guess_axes
from mtmamba.data.geometry import normals_from_depth
from mtmamba.data.layouts import DatasetError
from mtmamba.data.preparation import download as downloads
from mtmamba.data.preparation.archives import ArchiveError, lift, unpack
from mtmamba.data.preparation.download import DownloadError, download
from mtmamba.data.validation import validate
from mtmamba.files import sha256
from mtmamba.preparation import MANIFEST, prepare

ROOT = Path(__file__).parents[1]
TASKS = ["semseg", "depth", "normals", "edge"]


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.0)


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> bytes:
    """The prepared archive, in the official layout."""
    root = fake_data.write_nyud(tmp_path_factory.mktemp("made") / "NYUDv2")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as file:
        file.add(root, "NYUDv2")
    return buffer.getvalue()


@pytest.fixture
def server(packed):
    """A server of ``/PATH``: its behaviour by path; ``ranges`` is what was asked for."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            ranges.append((self.path, asked))
            if self.path == "/absent/NYUDv2.tar.gz":
                self.send_error(404)
                return
            start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
            body = packed[start:]
            self.send_response(206 if asked else 200)
            length = "-5" if "absurd" in self.path else str(len(body) + (1000 if "long" in self.path else 0))
            self.send_header("Content-Length", "much" if "words" in self.path else length)
            self.end_headers()
            self.wfile.write(body[: len(packed) // 3] if "breaks" in self.path else body)

        def log_message(self, *_):
            pass

    ranges: list[tuple[str, str | None]] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_address[1]}", ranges
        running.shutdown()


def run(tmp_path, *overrides):
    cfg = compose([f"cache_dir={tmp_path}/cache", "data.num_workers=0", *overrides], "prepare_data")
    prepare(cfg, tmp_path / "run")


def nyud(tmp_path, *overrides):
    run(tmp_path, "data=nyud", f"data.root={tmp_path}/NYUDv2", "data.crop_size=[32,64]", *overrides)


def leftovers(folder_of):
    return [path for path in folder_of.iterdir() if "partial" in path.name or "lifted" in path.name]


def test_a_connection_that_breaks_is_gone_on_with(server, tmp_path, packed):
    address, ranges = server
    path = download(f"{address}/breaks/NYUDv2.tar.gz", tmp_path)
    assert path.read_bytes() == packed
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for _, asked in ranges if asked]
    assert len(starts) >= 2
    assert starts == [k * (len(packed) // 3) for k in range(1, len(starts) + 1)]
    assert download(f"{address}/breaks/NYUDv2.tar.gz", tmp_path) == path
    assert len(ranges) == len(starts) + 1  # it was there


def test_what_was_there_before_is_gone_on_with(server, tmp_path, packed):
    address, ranges = server
    whole = download(f"{address}/NYUDv2.tar.gz", tmp_path)
    whole.rename(whole.with_name(f"{whole.name}.part"))
    os.truncate(whole.with_name(f"{whole.name}.part"), 1234)
    assert download(f"{address}/NYUDv2.tar.gz", tmp_path).read_bytes() == packed
    assert ranges[-1][1] == "bytes=1234-"


def test_servers_without_it_or_that_lie_are_named(server, tmp_path):
    address, ranges = server
    with pytest.raises(DownloadError, match="got 404"):
        download(f"{address}/absent/NYUDv2.tar.gz", tmp_path)
    assert len(ranges) == 1
    with pytest.raises(DownloadError, match=r"got .* of .* bytes"):
        download(f"{address}/long/NYUDv2.tar.gz", tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".part"]


@pytest.mark.parametrize("length", ["absurd", "words"])
def test_a_length_that_is_none_is_not_believed(server, tmp_path, packed, length):
    """``int`` had been asked, and answered with a traceback."""
    assert download(f"{server[0]}/{length}/NYUDv2.tar.gz", tmp_path).read_bytes() == packed


def test_too_small_a_disk_is_known_beforehand(server, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10}))
    with pytest.raises(DownloadError, match=r"GB free in .* make room"):
        download(f"{server[0]}/NYUDv2.tar.gz", tmp_path)


def test_the_next_mirror_is_tried_and_the_folder_is_whole(server, tmp_path):
    address, _ = server
    nyud(tmp_path, f"source=[{address}/absent/NYUDv2.tar.gz,{address}/breaks/NYUDv2.tar.gz]", "check=true")
    root = tmp_path / "NYUDv2"
    assert validate(root, "nyud", TASKS, cache_dir=tmp_path / "c", counts={"train": 6, "val": 3}).counts["val"] == 3
    listed = dict(reversed(line.split("  ")) for line in (root / MANIFEST).read_text().splitlines())
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    del files[MANIFEST]
    assert listed == {name: sha256(path) for name, path in files.items()}
    assert leftovers(tmp_path) == []
    page = (tmp_path / "run/dataset_report.html").read_text()
    assert "Nothing is missing or broken" in page
    assert "floor_mat" in page
    nyud(tmp_path)  # again: it is there
    with pytest.raises(DatasetError, match="move it away"):
        nyud(tmp_path, f"source={address}/NYUDv2.tar.gz")


def test_no_mirror_says_what_to_do(server, tmp_path):
    with pytest.raises(DatasetError, match=r"none of 2 mirrors .*404.*in a browser and give source=FILE"):
        nyud(tmp_path, f"source=[{server[0]}/absent/NYUDv2.tar.gz,{server[0]}/absent/NYUDv2.tar.gz]")
    assert not (tmp_path / "NYUDv2").exists()


def tar(path, members, mode="w:gz"):
    with tarfile.open(path, mode) as file:
        for name, kind, target in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            content = b"" if kind != tarfile.REGTYPE else b"x"
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("name", "kind", "target"),
    [
        ("../out.txt", tarfile.REGTYPE, ""),
        ("a/../../out.txt", tarfile.REGTYPE, ""),
        ("/tmp/mtmamba_out.txt", tarfile.REGTYPE, ""),
        ("C:/out.txt", tarfile.REGTYPE, ""),
        ("..\\out.txt", tarfile.REGTYPE, ""),
        ("link", tarfile.SYMTYPE, "/etc/passwd"),
        ("link", tarfile.LNKTYPE, "../../out.txt"),
        ("device", tarfile.CHRTYPE, ""),
        ("pipe", tarfile.FIFOTYPE, ""),
    ],
)
def test_members_that_climb_out_are_refused(tmp_path, name, kind, target):
    archive = tar(tmp_path / "a.tar.gz", [("NYUDv2/images/1.png", tarfile.REGTYPE, ""), (name, kind, target)])
    with pytest.raises(ArchiveError, match="do not trust this archive"):
        nyud(tmp_path, f"source={archive}")
    assert {path.name for path in tmp_path.iterdir()} <= {"a.tar.gz", "cache", "run"}
    assert not Path("/tmp/mtmamba_out.txt").exists()


def test_zips_are_unpacked_as_safely(tmp_path):
    with zipfile.ZipFile(tmp_path / "good.zip", "w") as file:
        file.writestr("d/a.txt", "1")
    unpack(tmp_path / "good.zip", tmp_path / "good")
    assert (tmp_path / "good/d/a.txt").read_text() == "1"
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    for name, entry in (("out", "../a.txt"), ("link", link)):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as file:
            file.writestr(entry, "/etc/passwd")
        with pytest.raises(ArchiveError, match="do not trust"):
            unpack(tmp_path / f"{name}.zip", tmp_path / name)


@pytest.mark.parametrize("share", [0.2, 0.7, 0.999])
def test_a_truncated_archive_leaves_nothing(tmp_path, packed, share):
    (tmp_path / "a.tar.gz").write_bytes(packed[: int(len(packed) * share)])
    with pytest.raises((ArchiveError, DatasetError), match="Expected a whole tar or zip archive"):
        nyud(tmp_path, f"source={tmp_path}/a.tar.gz")
    assert {path.name for path in tmp_path.iterdir()} <= {"a.tar.gz", "cache", "run"}


def test_a_web_page_in_its_place_is_named(tmp_path):
    (tmp_path / "NYUDv2.tar.gz").write_text("\n<!DOCTYPE html><html>Sign in</html>")
    with pytest.raises(ArchiveError, match="a web page: download the file in a browser"):
        nyud(tmp_path, f"source={tmp_path}/NYUDv2.tar.gz")


def test_the_other_archive_is_named(tmp_path):
    other = tmp_path / "made/NYUD_MT"
    (other / "segmentation").mkdir(parents=True)
    np.save(other / "segmentation/1.npy", np.zeros(1))
    with tarfile.open(tmp_path / "a.tar", "w") as file:
        file.add(other, "NYUD_MT")
    with pytest.raises(DatasetError, match="NYUD_MT: 480 x 640") as caught:
        nyud(tmp_path, f"source={tmp_path}/a.tar")
    assert f"the other NYUD archive in {tmp_path}/a.tar/NYUD_MT (" in str(
        caught.value
    )  # and not in a folder that is gone
    assert leftovers(tmp_path) == []


def test_a_full_disk_leaves_nothing(tmp_path, packed, monkeypatch):
    (tmp_path / "a.tar.gz").write_bytes(packed)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(OSError, match=r"Expected room for .* a full disk: make room"):
        nyud(tmp_path, f"source={tmp_path}/a.tar.gz")
    assert {path.name for path in tmp_path.iterdir()} <= {"a.tar.gz", "cache", "run"}


@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("kind", ["archive", "folder"])
def test_a_real_full_disk_leaves_nothing(tmp_path, packed, kind):
    """A disk of 64 kB, in a mount namespace of its own."""
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "a.tar.gz").write_bytes(packed)
    source = tmp_path / "a.tar.gz" if kind == "archive" else fake_data.write_nyud(tmp_path / "made")
    call = f"""{sys.executable} src/prepare_data.py data=nyud data.root={disk}/NYUDv2 source={source}
        data.crop_size=[32,64] cache_dir={tmp_path}/cache log_dir={tmp_path}/logs data.num_workers=0"""
    script = f"mount -t tmpfs -o size=64k tmpfs {disk} && {{ {' '.join(call.split())}; echo status $?; ls -A {disk}; }}"
    done = subprocess.run(["unshare", "-m", "sh", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    if "status" not in done.stdout:
        pytest.skip(f"no mount namespace: {done.stderr.strip()}")
    assert done.stdout.split() == ["status", "1"]
    assert "a full disk: make room" in done.stderr


def test_a_link_to_its_own_folder_is_named(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/loop").symlink_to(".")
    with pytest.raises(DatasetError, match=r"Expected files that can be copied in .*Too many levels") as caught:
        nyud(tmp_path, f"source={tmp_path}/in")
    assert len(str(caught.value)) < 1000
    assert leftovers(tmp_path) == []


def test_a_target_inside_its_source_is_not_copied_into_itself(tmp_path):
    fake_data.write_nyud(tmp_path)
    nyud(tmp_path, f"source={tmp_path}")
    assert {path.name for path in (tmp_path / "NYUDv2").glob(".*")} == set()


def test_a_folder_deep_down_is_lifted(tmp_path):
    (tmp_path / "a/b/c/gt_sets").mkdir(parents=True)
    (tmp_path / "a/b/readme").touch()
    assert lift(tmp_path / "a", lambda inner: (inner / "gt_sets").is_dir())
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["gt_sets"]
    assert not lift(tmp_path / "a", lambda inner: (inner / "absent").is_dir())


def test_an_archive_without_a_tasks_files_serves_the_others(tmp_path, caplog):
    root = fake_data.write_nyud(tmp_path / "made")
    for path in (root / "normals").iterdir():
        path.unlink()
    nyud(tmp_path, f"source={root}")
    assert f"normals cannot be used: Expected a complete NYUDv2 in {tmp_path}/NYUDv2," in caplog.text
    assert "Train with tasks=[semseg,depth,edge]" in caplog.text
    assert validate(tmp_path / "NYUDv2", "nyud", ["semseg", "depth", "edge"], cache_dir=tmp_path / "c").counts


def test_the_check_names_what_is_missing_broken_or_changed(tmp_path, packed):
    (tmp_path / "a.tar.gz").write_bytes(packed)
    nyud(tmp_path, f"source={tmp_path}/a.tar.gz")
    root = tmp_path / "NYUDv2"
    (root / "depth/0002.npy").unlink()
    (root / "segmentation/0003.png").write_bytes(b"no")
    fake_data.write_png(root / "edge/0004.png", np.zeros((24, 32), np.uint8))
    with pytest.raises(DatasetError, match="got 2 missing or broken and 3 changed since SHA256SUMS"):
        nyud(tmp_path, "check=true")
    page = (tmp_path / "run/dataset_report.html").read_text()
    for text in ("0002: no file for depth (train)", "segmentation/0003.png", "edge/0004.png has changed"):
        assert text in page


def write_official(folder_of, frames=4):
    """``nyu_depth_v2_labeled.mat`` and its two small files, in MATLAB's order of axes."""
    h5py = pytest.importorskip("h5py")
    rng = np.random.default_rng(0)
    columns = np.mgrid[:480, :640][1]
    depth = np.stack([2 + 0.001 * (k + 1) * columns for k in range(frames)]).astype(np.float32)  # walls that recede
    images = rng.integers(0, 256, (frames, 480, 640, 3), dtype=np.uint8)
    labels = np.stack([1 + (columns // 200 + k) % 5 for k in range(frames)]).astype(np.uint16)
    labels[:, 200:220] = 0
    with h5py.File(folder_of / "nyu_depth_v2_labeled.mat", "w") as file:
        file["images"] = images.transpose(0, 3, 2, 1)
        file["depths"] = depth.transpose(0, 2, 1)
        file["labels"] = labels.transpose(0, 2, 1)
    scipy.io.savemat(folder_of / "splits.mat", {"trainNdxs": [[1], [3]], "testNdxs": [[2], [4]]})
    mapping = np.array([[40, 3, 7, 1, 12, 5]])
    scipy.io.savemat(folder_of / "classMapping40.mat", {"mapClass": mapping})
    return images, depth, np.concatenate([[0], mapping[0]])[labels]


def test_the_official_files_become_the_layout(tmp_path):
    (tmp_path / "official").mkdir()
    images, depth, classes = write_official(tmp_path / "official")
    nyud(tmp_path, f"source={tmp_path}/official", "data.crop_size=[448,576]")
    root = tmp_path / "NYUDv2"
    assert get_dataset("nyud").read_ids(root, "train") == ["0001", "0003"]
    assert get_dataset("nyud").read_ids(root, "val") == ["0002", "0004"]
    for k in range(4):
        name = f"{k + 1:04d}"
        assert (np.array(Image.open(root / f"images/{name}.png")) == images[k, 45:470, 41:601]).all()
        assert (np.array(Image.open(root / f"segmentation/{name}.png")) == classes[k, 45:470, 41:601]).all()
        assert (np.load(root / f"depth/{name}.npy") == depth[k, 45:470, 41:601]).all()
    assert np.array(Image.open(root / "edge/0001.png")).any()


def official_pascal(folder_of):
    """VOC 2010, PASCAL-Context and PASCAL-Part as their archives unpack, without one image's segmentation by VOC."""
    made, voc = fake_data.write_pascal(folder_of / "made"), folder_of / "official/VOCdevkit/VOC2010"
    moves = {
        "JPEGImages": voc / "JPEGImages",
        "ImageSets/Context": voc / "ImageSets/Main",
        "semseg/VOC12": voc / "SegmentationClass",
        "pascal-context/trainval": folder_of / "official/trainval",
        "human_parts": folder_of / "official/Annotations_Part",
    }
    for old, new in moves.items():
        new.parent.mkdir(parents=True, exist_ok=True)
        (made / old).rename(new)
    (voc / "SegmentationClass/2008_000002.png").unlink()
    labels = np.kron([[284, 2, 0, 427], [397, 459, 65, 1]], np.ones((12, 8))).astype(np.uint16)
    scipy.io.savemat(folder_of / "official/trainval/2008_000002.mat", {"LabelMap": labels})
    return voc


def pascal(tmp_path):
    options = ("data=pascal_context", f"data.root={tmp_path}/PASCALContext", "data.crop_size=[32,64]")
    run(tmp_path, *options, f"source={tmp_path}/official")


def test_pascal_s_official_parts_become_the_layout(tmp_path, caplog):
    voc = official_pascal(tmp_path)
    pascal(tmp_path)
    root, wanted = tmp_path / "PASCALContext", fake_data.write_pascal(tmp_path / "again")
    assert "Train with tasks=[semseg,human_parts,edge]" in caplog.text
    assert get_dataset("pascal_context").read_ids(root, "val") == ["2008_000006", "2008_000007", "2008_000008"]
    own = "semseg/VOC12/2008_000001.png"
    assert (np.array(Image.open(root / own)) == np.array(Image.open(wanted / own))).all()
    from_context = np.array(Image.open(root / "semseg/pascal-context/2008_000002.png"))
    assert from_context[6::12, 4::8].tolist() == [[15, 1, 0, 20], [11, 0, 8, 0]]  # person, aeroplane, tvmonitor; ...
    for new, old in (("human_parts", "Annotations_Part"), ("pascal-context/trainval", "trainval")):
        whole = (tmp_path / f"official/{old}/2008_000005.mat").read_bytes()
        assert (root / f"{new}/2008_000005.mat").read_bytes() == whole
    assert (voc / "JPEGImages/2008_000000.jpg").is_file()


def test_a_part_of_pascal_that_is_missing_is_named(tmp_path):
    official_pascal(tmp_path)
    (tmp_path / "official/Annotations_Part").rename(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="PASCAL-Part's annotations in a folder Annotations_Part below"):
        pascal(tmp_path)
    assert leftovers(tmp_path) == []


def test_official_files_that_are_missing_are_named(tmp_path):
    (tmp_path / "official").mkdir()
    write_official(tmp_path / "official")
    (tmp_path / "official/classMapping40.mat").unlink()
    with pytest.raises(DatasetError, match=r"classMapping40.mat with mapClass.*no such file"):
        nyud(tmp_path, f"source={tmp_path}/official/nyu_depth_v2_labeled.mat")
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize("normal", [(0, 0, -1), (0, -0.6, -0.8), (0.48, 0.6, -0.64)])
def test_normals_of_a_plane(normal):
    """A plane n·p = -2, seen by a pinhole camera: every normal is n."""
    focal, centre = (60.0, 55.0), (40.0, 30.0)
    rows, columns = np.mgrid[:61, :81]
    rays = np.stack([(columns - centre[0]) / focal[0], (rows - centre[1]) / focal[1], np.ones((61, 81))], -1)
    depth = (-2 / (rays @ np.array(normal))).astype(np.float32)
    found = normals_from_depth(depth, focal, centre)[12:-12, 12:-12]
    assert np.degrees(np.arccos(np.clip(found @ np.array(normal), -1, 1))).max() < 6
    depth[30, 40] = 0
    assert (normals_from_depth(depth, focal, centre)[30, 40] == 0).all()


def write_own(root):
    """Photographs, 13 classes, millimetres in 16 bits, normals y up and z backward."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :64]
    for k in range(12):
        slope = rng.normal(0, 0.3, 2)
        depth = (3 + slope[0] * (columns - 32) / 32 + slope[1] * (rows - 24) / 24).astype(np.float32)
        ours = normals_from_depth(depth, (64, 64), (32, 24))
        name = f"room {k % 3}/{k:02d}"
        fake_data.write_png(root / f"rgb/{name}_color.jpg", rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
        fake_data.write_png(root / f"classes/{name}.png", fake_data.draw_blocks(rng, 13, (48, 64)))
        fake_data.write_png(root / f"depth/{name}.png", np.rint(1000 * depth).astype(np.uint16))
        fake_data.write_png(root / f"normals/{name}.png", fake_data.encode_normals(ours * [1, -1, -1]))
    fake_data.write_png(root / "classes/room 0/00.png", np.full((48, 64), 12, np.uint8))
    return root


def test_a_first_dataset_yaml_is_right(tmp_path):
    root = write_own(tmp_path / "my rooms")
    run(tmp_path, "data=folder", f"data.root='{root}'")
    cfg = mtmamba.load_config(["data=folder", f"data.root='{root}'", "data.num_workers=0"])
    description = json.loads(json.dumps(folder.read_description(root)))
    assert description["images"] == "rgb/{id}_color.jpg"
    assert description["splits"] == {"train": 0.9, "val": 0.1, "seed": 0}
    assert description["tasks"] == {
        "semseg": {"file": "classes/{id}.png", "classes": 13},
        "depth": {"file": "depth/{id}.png", "scale": 0.001, "shown": [2, 4]},
        "normals": {"file": "normals/{id}.png", "axes": ["x", "-y", "-z"]},
        "edge": {"from": "semseg"},
    }
    assert list(cfg.data.crop_size) == [64, 64]
    ids = [*dataset_record(cfg).read_ids(root, "train"), *folder.find_images(root, ("rgb/{id}_color.jpg",))]
    assert "room 1/04" in ids
    with pytest.raises(DatasetError, match="before a first one is written"):
        run(tmp_path, "data=folder", f"data.root='{root}'")
    for split, names in (("train", ids[:6]), ("val", ids[6:8])):
        fake_data.write_list(root / f"lists/{split}.txt", names)
    (root / "dataset.yaml").unlink()
    run(tmp_path, "data=folder", f"data.root='{root}'", "check=true")
    assert folder.read_description(root)["splits"] == {"train": "lists/train.txt", "val": "lists/val.txt"}
    assert "6 train, 2 val" in (tmp_path / "run/dataset_report.html").read_text()


def test_axes_are_guessed_by_the_depth():
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :64]
    depths = [3 + a * (columns - 32) / 32 + b * (rows - 24) / 24 for a, b in rng.normal(0, 0.5, (6, 2))]
    ours = [normals_from_depth(depth.astype(np.float32), (64, 64), (32, 24)) for depth in depths]
    theirs = [np.stack([n[..., 1], -n[..., 2], n[..., 0]], -1) for n in ours]
    assert guess_axes(depths, theirs) == ("z", "x", "-y")


def test_folders_without_images_or_labels_are_named(tmp_path):
    with pytest.raises(DatasetError, match="Expected images"):
        run(tmp_path, "data=folder", f"data.root={tmp_path}")
    fake_data.write_png(tmp_path / "images/1.jpg", np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(DatasetError, match="Expected labels"):
        run(tmp_path, "data=folder", f"data.root={tmp_path}")
    assert not (tmp_path / "dataset.yaml").exists()


@pytest.mark.slow
def test_killed_at_any_moment_it_can_be_run_again(tmp_path, packed):
    (tmp_path / "a.tar.gz").write_bytes(packed)
    call = f"""src/prepare_data.py data=nyud data.root={tmp_path}/NYUDv2 source={tmp_path}/a.tar.gz
        data.crop_size=[32,64] cache_dir={tmp_path}/cache log_dir={tmp_path}/logs data.num_workers=0"""
    start = time.monotonic()
    subprocess.run([sys.executable, *call.split()], cwd=ROOT, check=True, capture_output=True)
    usual = time.monotonic() - start
    moments = random.Random(0)
    for _ in range(10):
        subprocess.run(["rm", "-r", f"{tmp_path}/NYUDv2"], check=False)
        with subprocess.Popen([sys.executable, *call.split()], cwd=ROOT, stderr=subprocess.PIPE) as child:
            time.sleep(moments.uniform(0.7, 1.0) * usual)
            child.send_signal(signal.SIGKILL)
        if (tmp_path / "NYUDv2").exists():
            assert (tmp_path / f"NYUDv2/{MANIFEST}").is_file()
    subprocess.run(["rm", "-rf", f"{tmp_path}/NYUDv2"], check=False)
    subprocess.run([sys.executable, *call.split(), "check=true"], cwd=ROOT, check=True, capture_output=True)
    assert leftovers(tmp_path) == []
