import logging
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fake_data
from mtmamba.data.datasets import get_dataset
from mtmamba.data.layouts import DatasetError
from mtmamba.data.validation import Report, validate

NYUD_TASKS = ["semseg", "depth", "normals", "edge"]
PASCAL_TASKS = ["semseg", "human_parts", "sal", "normals", "edge"]
COUNTS = {"train": 6, "val": 3}


@pytest.fixture
def nyud(tmp_path):
    return fake_data.write_nyud(tmp_path / "NYUDv2")


@pytest.fixture
def pascal(tmp_path):
    return fake_data.write_pascal(tmp_path / "PASCALContext")


def check_nyud(root, tasks=NYUD_TASKS, counts=COUNTS):
    return validate(root, "nyud", tasks, cache_dir=root.parent / "cache", counts=counts)


def check_pascal(root, tasks=PASCAL_TASKS):
    return validate(root, "pascal_context", tasks, cache_dir=root.parent / "cache", counts=COUNTS)


def contents(root):
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


def test_whole_datasets_pass_and_stay_as_they_are(nyud, pascal):
    before = contents(nyud), contents(pascal)
    for report in (check_nyud(nyud), check_pascal(pascal)):
        assert report.counts == COUNTS
        assert not report.warnings
        assert "6 train, 3 val" in report.summary()
    assert (contents(nyud), contents(pascal)) == before


def test_a_missing_root_says_how_to_get_one(tmp_path):
    with pytest.raises(DatasetError, match="no such folder") as error:
        check_nyud(tmp_path / "nowhere")
    for part in ("gt_sets/train.txt", "data.root=", "NYUD_ROOT", "data=synthetic", "NYUDv2.tar.gz"):
        assert part in str(error.value)


def test_the_incompatible_archive_is_named(tmp_path, nyud):
    with pytest.raises(DatasetError, match="NYUD_MT"):
        check_nyud(fake_data.write_nyud(tmp_path / "NYUD_MT"))
    (tmp_path / "other/NYUD_MT").mkdir(parents=True)
    with pytest.raises(DatasetError, match="480 x 640"):
        check_nyud(tmp_path / "other")
    (nyud / "segmentation/0001.npy").touch()
    with pytest.raises(DatasetError, match="NYUD_MT"):
        check_nyud(nyud)


def test_a_root_one_level_off_is_corrected(nyud):
    with pytest.raises(DatasetError, match=rf"one level deeper: set data.root={nyud}$"):
        check_nyud(nyud.parent)
    (nyud / "gt_sets/a/b").mkdir(parents=True)
    for folder in ("gt_sets", "gt_sets/a"):
        with pytest.raises(DatasetError, match=rf"inside it: set data.root={nyud}$"):
            check_nyud(nyud / folder)
    with pytest.raises(DatasetError, match="got a folder that holds nothing"):
        check_nyud(nyud / "gt_sets/a/b")


def test_another_dataset_is_recognised(nyud, pascal):
    with pytest.raises(DatasetError, match="got NYUDv2: choose data=nyud"):
        check_pascal(nyud)
    with pytest.raises(DatasetError, match="got PASCALContext: choose data=pascal_context"):
        check_nyud(pascal)
    (pascal.parent / "empty/some").mkdir(parents=True)
    with pytest.raises(DatasetError, match="a folder that holds some"):
        check_nyud(pascal.parent / "empty")


def test_missing_files_are_listed_up_to_ten(nyud):
    for path in [*(nyud / "depth").glob("000[1-8].npy"), *(nyud / "edge").glob("000[1-7].png")]:
        path.unlink()
    with pytest.raises(DatasetError, match=r"got 15 problem\(s\)") as error:
        check_nyud(nyud)
    lines = str(error.value).splitlines()
    assert "  - depth/0001.npy: missing (train, for depth)" in lines
    assert "  - depth/0008.npy: missing (val, for depth)" in lines
    assert sum(line.startswith("  - ") for line in lines) == 10
    assert "  … and 5 more" in lines
    assert check_nyud(nyud, ["semseg", "normals"]).counts == COUNTS


def test_ten_problems_are_all_listed_and_of_eleven_one_is_counted(nyud):
    for path in [*(nyud / "depth").glob("000[1-5].npy"), *(nyud / "edge").glob("000[1-5].png")]:
        path.unlink()
    with pytest.raises(DatasetError, match=r"got 10 problem\(s\)") as error:
        check_nyud(nyud)
    assert sum(line.startswith("  - ") for line in str(error.value).splitlines()) == 10
    assert "…" not in str(error.value)
    (nyud / "images/0001.png").unlink()
    with pytest.raises(DatasetError, match="  … and 1 more"):
        check_nyud(nyud)


def test_eight_images_evenly_spaced_are_decoded(tmp_path):
    """Of twenty, with the first and the last: every 19/7th."""
    root = fake_data.write_nyud(tmp_path / "NYUDv2", train=20)
    for number in range(1, 21):
        fake_data.write_png(root / f"segmentation/{number:04d}.png", np.full(fake_data.SIZE, 77, np.uint8))
    with pytest.raises(DatasetError, match=r"got 8 problem\(s\)") as error:
        check_nyud(root)
    assert [int(number) for number in re.findall(r"(\d{4})\.png, got 77", str(error.value))] == [
        1, 3, 6, 9, 11, 14, 17, 20,
    ]  # fmt: skip


@pytest.mark.parametrize(("suffix", "size"), [("PNG", fake_data.SIZE), ("picture", (0, 0))])
def test_images_have_the_size_of_their_header_or_none_where_it_does_not_say(nyud, suffix, size):
    for path in (nyud / "images").iterdir():
        path.rename(path.with_suffix(f".{suffix}"))
    record = get_dataset("nyud")
    record = replace(record, layout=replace(record.layout, image=f"images/{{id}}.{suffix}"))
    report = validate(nyud, record, ["edge"], cache_dir=nyud.parent, counts=COUNTS)
    assert report.sizes == {size}


def test_the_largest_size_is_of_each_side():
    assert Report(get_dataset("nyud"), Path(), sizes={(24, 40), (30, 32)}).largest == (30, 40)


def test_a_missing_folder_is_one_line(pascal):
    shutil.rmtree(pascal / "pascal-context")
    with pytest.raises(DatasetError, match=r"got 1 problem") as error:
        check_pascal(pascal)
    assert "pascal-context/trainval/ID.mat: none of 9 files (for normals, edge)" in str(error.value)
    assert check_pascal(pascal, ["semseg", "sal", "human_parts"]).counts == COUNTS


def test_either_folder_of_pascal_semseg_will_do(pascal):
    (pascal / "semseg/pascal-context").mkdir()
    shutil.move(pascal / "semseg/VOC12/2008_000003.png", pascal / "semseg/pascal-context")
    check_pascal(pascal)
    (pascal / "semseg/pascal-context/2008_000003.png").unlink()
    with pytest.raises(DatasetError, match=r"VOC12/2008_000003.png or semseg/pascal-context/2008_000003.png: missing"):
        check_pascal(pascal)


def test_the_image_is_needed_whatever_the_tasks(nyud):
    (nyud / "images/0009.png").unlink()
    with pytest.raises(DatasetError, match=r"images/0009.png: missing \(val, for the image\)"):
        check_nyud(nyud, ["edge"])


@pytest.mark.parametrize("file", ["normals/0002.png", "depth/0002.npy"])
def test_another_size_is_named(nyud, file):
    if file.endswith("npy"):
        np.save(nyud / file, np.ones((24, 30)))
    else:
        fake_data.write_png(nyud / file, np.ones((24, 30, 3), np.uint8))
    with pytest.raises(DatasetError, match=rf"{file}: expected the image's size \(24, 32\), got \(24, 30\)"):
        check_nyud(nyud)


@pytest.mark.parametrize("file", ["images/0002.png", "depth/0002.npy"])
def test_an_unreadable_header_is_named(nyud, file):
    (nyud / file).write_bytes(b"nothing")
    with pytest.raises(DatasetError, match=rf"{file}: expected a readable file"):
        check_nyud(nyud)


def test_content_out_of_range_is_named(nyud):
    fake_data.write_png(nyud / "segmentation/0001.png", np.full(fake_data.SIZE, 77, np.uint8))
    with pytest.raises(DatasetError, match=r"classes 0..40 in .*0001.png, got 77"):
        check_nyud(nyud)


def test_normals_of_another_length_warn(nyud, caplog):
    fake_data.write_png(nyud / "normals/0001.png", np.full((*fake_data.SIZE, 3), 10, np.uint8))
    report = check_nyud(nyud)
    assert [line for line in report.warnings if "0001.png: 100% of the valid normals" in line]
    assert "not of unit length" in caplog.text


def test_counts_warn(nyud, caplog):
    with caplog.at_level(logging.WARNING):
        check_nyud(nyud, counts=None)
        check_nyud(nyud, counts={"train": 5, "val": 3})
    assert "expected 795 train images, got 6: a subset" in caplog.text
    assert "expected 654 val images, got 3: a subset" in caplog.text
    assert "expected 5 train images, got 6: more than" in caplog.text


def test_a_missing_or_repeated_list_is_named(nyud):
    (nyud / "gt_sets/train.txt").write_text("0001\n0001\n")
    with pytest.raises(DatasetError, match=r"train.txt, got '0001' twice"):
        check_nyud(nyud)
    (nyud / "gt_sets/train.txt").unlink()
    with pytest.raises(DatasetError, match=r"train.txt, got no such file"):
        check_nyud(nyud)


def test_a_split_that_there_is_not_is_named(nyud):
    with pytest.raises(DatasetError, match="split among train, val of NYUDv2, got test"):
        get_dataset("nyud").read_ids(nyud, "test")


def test_unknown_names_are_refused(nyud):
    with pytest.raises(ValueError, match="Expected a dataset out of"):
        validate(nyud, "ADE20K", ["semseg"], cache_dir=nyud)
    for tasks in (["sal"], [], ["depth", "depth"]):
        with pytest.raises(ValueError, match="Expected distinct tasks"):
            check_nyud(nyud, tasks)


def test_lists_from_other_systems_are_read(nyud):
    names = (nyud / "gt_sets/train.txt").read_text().split()
    for text in ("\r\n".join(names), "\r".join(names), "\ufeff" + " \r\n".join(names) + "\r\n\r\n"):
        (nyud / "gt_sets/train.txt").write_bytes(text.encode())
        assert get_dataset("nyud").read_ids(nyud, "train") == names


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_an_image_may_be_either_format_whatever_its_suffix(nyud, pascal, kind):
    for path in (nyud / "images/0001.png", pascal / "JPEGImages/2008_000000.jpg"):
        with Image.open(path) as image:
            image.convert("RGB").save(path, format=kind)
    check_nyud(nyud)
    check_pascal(pascal)


def test_a_label_behind_a_broken_link_is_no_missing_label(nyud):
    """Where labels may be missing, too: a disk that is not mounted is not ten thousand images without labels."""
    path = nyud / "depth/0002.npy"
    path.unlink()
    validate(nyud, "nyud", NYUD_TASKS, cache_dir=nyud.parent / "cache", counts=COUNTS, partial=True)
    path.symlink_to("elsewhere/0002.npy")
    with pytest.raises(DatasetError, match=r"depth/0002\.npy: expected a file, got a link to elsewhere/0002\.npy"):
        validate(nyud, "nyud", NYUD_TASKS, cache_dir=nyud.parent / "cache", counts=COUNTS, partial=True)
