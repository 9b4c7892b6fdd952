"""Files that are written whole: by writers of one number in two containers, by killed ones, beside living ones."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mtmamba.files import claimed, remove_partial, replacing

SRC = Path(__file__).parents[1] / "src"
SAME_NUMBER = """
import os, sys
from pathlib import Path
from mtmamba.files import remove_partial, replacing
os.getpid = lambda: 1  # as the first process of each container has
path = Path(sys.argv[1])
for i in range(300):
    with replacing(path) as partial:
        partial.write_text(sys.argv[2] * 20_000)
    assert path.read_text() in ("a" * 20_000, "b" * 20_000, "c" * 20_000)
    if i % 10 == 0:
        remove_partial(path.parent)
"""
WAITING = """
import sys, time
from pathlib import Path
from mtmamba.files import replacing
with replacing(Path(sys.argv[1]), folder=sys.argv[2] == "folder") as partial:
    (partial / "file" if sys.argv[2] == "folder" else partial).write_text("half")
    print("ready", flush=True)
    time.sleep(60)
"""


CLAIMING = """
import sys, time
from pathlib import Path
from mtmamba.files import claimed
with claimed(Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(60)
"""


def started(code: str, *arguments: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(SRC)}
    return subprocess.Popen([sys.executable, "-c", code, *arguments], env=environment, stdout=subprocess.PIPE)


def test_containers_whose_processes_have_one_number_share_a_folder(tmp_path):
    writers = [started(SAME_NUMBER, str(tmp_path / "shared/entry"), letter) for letter in "abc"]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert [path.name for path in (tmp_path / "shared").iterdir()] == ["entry"]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_left_is_removed_but_not_what_a_living_one_writes(kind, tmp_path):
    path = tmp_path / "deep/entry"
    writer = started(WAITING, str(path), kind)
    assert writer.stdout.readline() == b"ready\n"
    (partial,) = path.parent.iterdir()
    remove_partial(tmp_path)
    assert partial.exists()
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    remove_partial(tmp_path, "deep/another")
    assert partial.exists()
    remove_partial(tmp_path)
    assert [*path.parent.iterdir()] == []


def test_a_folder_is_one_process_s_until_it_ends_however_it_ends(tmp_path):
    owner = started(CLAIMING, str(tmp_path / "deep/out"))
    assert owner.stdout.readline() == b"ready\n"
    with (
        pytest.raises(FileExistsError, match=r"that no other process writes to, got .*deep/out: wait"),
        claimed(tmp_path / "deep/out"),
    ):
        pass
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    for _ in range(2):
        with claimed(tmp_path / "deep/out"):
            pass
    assert [*(tmp_path / "deep/out").iterdir()] == []


def test_only_temporary_names_are_removed(tmp_path):
    kept = [tmp_path / name for name in ("entry", ".entry", "a.partial.b")]
    for path in kept:
        path.write_text("whole")
    (tmp_path / ".123.partial.entry").write_text("as earlier versions left them")
    remove_partial(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_a_block_that_fails_changes_nothing(tmp_path):
    path = tmp_path / "entry"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as partial:
        partial.write_text(f"new {1 / 0}")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"entry": "old"}


def test_a_folder_replaces_none_that_holds_something(tmp_path):
    def make(content):
        with replacing(tmp_path / "made", folder=True) as partial:
            (partial / "file").write_text(content)

    make("first")
    with pytest.raises(OSError, match="not empty"):
        make("second")
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert (tmp_path / "made/file").read_text() == "first"


def test_a_full_disk_is_said_whoever_writes(tmp_path):
    """Real writes to a device that has no room: by Python, by PyTorch's writer, by a copy of a folder."""
    full = Path("/dev/full")

    def by_pytorch(_: Path) -> None:
        with full.open("wb") as file:
            torch.save({"weight": torch.ones(10**6)}, file)

    def by_a_copy(partial: Path) -> None:
        raise shutil.Error([("a", str(partial), f"[Errno 28] {os.strerror(28)}")])  # how copytree gathers its errors

    path = tmp_path / "last.ckpt"
    path.write_text("old")
    for write in (lambda _: full.write_bytes(b"x"), by_pytorch, by_a_copy):
        with (
            pytest.raises(OSError, match=rf"Expected room for {path}, got a full disk: make room"),
            replacing(path) as partial,
        ):
            write(partial)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_other_errors_stay_what_they_are(tmp_path):
    with pytest.raises(RuntimeError, match="no weights"), replacing(tmp_path / "file"):
        raise RuntimeError("no weights")
