"""Every command of the pages composes: its script, settings and values are there, and what it needs is what is said."""

import importlib.util
import re
import shlex
import tomllib
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from mtmamba.config.settings import check_given, check_settings
from mtmamba.shipped import config_dir

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]

PLACEHOLDERS = {"...": None, "-m": None, "decoder=NAME": "decoder=mtmamba", "encoder=…": "encoder=swin_tiny"}
"""What stands for a choice of the reader's, and such a choice."""

RUN_BY = {"extending.md": "tests/test_extensions.py"}
"""Pages whose commands a test runs as they stand."""

WITHOUT_SETTINGS = {"results"}
"""Scripts that take none."""

CALLED_IN = {
    "benchmark": "tests/test_scripts.py",
    "doctor": "tests/test_command.py",
    "eval": "tests/test_scripts.py",
    "eval_predictions": "tests/test_scripts.py",
    "evidence": "tests/runs/test_protocol.py",
    "export": "tests/test_scripts.py",
    "import_checkpoint": "tests/test_released.py",
    "model_stats": "tests/stats/test_model_stats.py",
    "predict": "tests/inference/test_many_files.py",
    "prepare_data": "tests/test_preparation.py",
    "publish": "tests/test_publishing.py",
    "report": "tests/report/test_report_files.py",
    "train": "tests/training/test_launched.py",
}
"""The test that calls a script as people do, in small form."""

NEEDING = {"dashboard", "demo_app", "evidence", "publish"}
"""Scripts that need a login, a browser or a dataset, whatever they are called with."""

OTHERS = (
    "git clone",
    "cd mtmamba",
    "wandb ",
    "mlflow ui",
    "tensorboard ",
    "pipx run pre-commit",
    ".venv/bin/jupyter lab",
)
"""What other programs' commands begin with."""


def lines_of(page):
    """The lines of a page's blocks, continued ones joined, with what comments above and beside say; of text, None."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```bash\n((?!#!).*?)^```", text, re.M | re.S):
        above = ""
        for line in block.replace("\\\n", " ").splitlines():
            if re.match(r"#|\s*$", line):
                above = line
            yield line, above + line.partition(" #")[2]
    plain = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    for line in re.findall(r"`((?:python|torchrun|make|pip|\.venv/bin/\w+) [^`]*)`", re.sub(r"\s*\n\s*", " ", plain)):
        yield line, None


def commands(page):
    """The commands of a page, each with its words and what is said of it."""
    for line, said in lines_of(page):
        for part in re.split(r"; | && ", re.sub(r"(^|\s)#.*", "", line)):
            if words := shlex.split(part):
                yield part, words, said


def overrides(words):
    """A call's settings, of a sweep the first row's; launchers are tried by ``tests/runs/test_sweep.py``."""
    words = [PLACEHOLDERS.get(word, re.sub(r"^(\w+=\w+)(\|\w+)+$", r"\1", word).replace("…", "...")) for word in words]
    words = [word for word in words if word is not None and not re.match(r"\+?hydra[./]launcher", word)]
    parsed = OverridesParser.create().parse_overrides(words)
    for override in parsed:
        value = next(override.sweep_string_iterator()) if override.is_sweep_override() else None
        yield override.input_line if value is None else f"{override.input_line.partition('=')[0]}={value}"


def require(words):
    """Raise where a call would be refused for what it says."""
    program, *rest = words
    if program.endswith("python") and rest[0].startswith("src/"):
        if "--help" in rest:
            return
        script = Path(rest[0]).stem
        if script in WITHOUT_SETTINGS:
            assert rest[1:] == []
            return
        cfg = compose(script, [*overrides(rest[1:])])
        check_given(cfg)
        check_settings(cfg)
    elif program.endswith("python") and rest[:2] == ["-m", "pytest"]:
        assert all((ROOT / word).exists() for word in rest if word.startswith("tests/"))
    elif program.endswith("python") and rest[:2] == ["-m", "pip"]:
        require(rest[1:])
    elif program.endswith("python") and rest[0] == "-m":
        assert importlib.util.find_spec(rest[1]) is not None
    elif program.endswith("python"):
        assert (ROOT / rest[0]).is_file()
    elif program == "torchrun":
        at = next(i for i, word in enumerate(rest) if word.startswith("src/"))
        require(["python", *rest[at:]])
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    elif program == "pip":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        for word in rest:
            extras = re.fullmatch(r"(?:mtmamba|\.)\[(.*)\]", word)
            assert extras is None or set(extras[1].split(",")) <= project["optional-dependencies"].keys()
    elif program == "pytest":
        assert all((ROOT / word).exists() for word in rest if word.startswith("tests/"))
    elif re.fullmatch(r"[A-Z_]+=.*", program):
        require(rest)
    else:
        assert " ".join(words).startswith(OTHERS), "no test knows this command"


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in RUN_BY], ids=lambda page: page.name)
def test_every_command_of_a_page_composes(page):
    wrong = []
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        for command, words, _ in commands(page):
            try:
                require(words)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
                wrong.append(f"{command}: {error}")
    assert "\n".join(wrong) == ""


def is_needing(words):
    """Whether a call needs what not everybody has: a dataset, the network, GPUs, a launcher, an account."""
    if words[0] == "torchrun" or any(re.match(r"\+?hydra[./]launcher", word) or "cuda" in word for word in words):
        return True
    script = re.fullmatch(r"src/(\w+)\.py", words[1] if len(words) > 1 else "")
    if script is None or script[1] in NEEDING:
        return script is not None
    if script[1] != "train":
        return any(re.match(r"data\.root=|data=(nyud|pascal_context|cityscapes)$", word) for word in words)
    cfg = compose("train", [*overrides(words[2:])])
    return not cfg.data.get("scenes") or bool(cfg.model.encoder.get("pretrained"))


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in RUN_BY], ids=lambda page: page.name)
def test_every_command_is_called_by_a_test_or_says_what_it_needs(page):
    silent, uncalled = [], set()
    with initialize_config_dir(str(config_dir()), version_base="1.3"):
        for command, words, said in commands(page):
            if is_needing(words):
                silent += [command] if said is not None and "needs" not in said else []
            elif scripts := re.findall(r"src/(\w+)\.py", command):
                uncalled |= set(scripts) - CALLED_IN.keys() - WITHOUT_SETTINGS
    assert silent == []
    assert uncalled == set()


def test_the_tests_that_call_the_scripts_name_them():
    for script, test in CALLED_IN.items():
        text = (ROOT / test).read_text(encoding="utf-8")
        assert re.search(rf'[("/]{script}(\.py)?"', text), (script, test)
        assert (ROOT / f"src/{script}.py").is_file()
