"""Imports point one way, nobody reaches into another's private names, and tasks are named where their facts stand."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/mtmamba"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

ABOVE = {
    "types": {"kernels", "scan", "models", "losses", "metrics", "tasks", "data", "training", "evaluation", "inference"},
    "kernels": {"scan", "models", "losses", "metrics", "tasks", "data", "training", "evaluation", "inference"},
    "scan": {"models", "losses", "metrics", "tasks", "data", "training", "evaluation", "inference"},
    "models": {"losses", "metrics", "tasks", "data", "training", "evaluation", "inference"},
    "losses": {"kernels", "scan", "models", "tasks", "data", "training", "evaluation", "inference"},
    "metrics": {"kernels", "scan", "models", "tasks", "data", "training", "evaluation", "inference"},
    "tasks": {"kernels", "scan", "models", "data", "training", "evaluation", "inference"},
    "data": {"models", "scan", "kernels", "training", "evaluation", "inference"},
    "training": {"inference"},
    "evaluation": {"training", "inference"},
    "inference": {"training"},
}
"""What each part of the package must not import."""

TOP = {
    "build", "config", "runs", "report", "stats", "benchmarks", "export", "doctor", "restore", "released",
    "publishing", "preparation", "checkpoints", "extensions", "command", "jobs", "answers",
    "cli",
}  # fmt: skip
"""What stands above the networks, the tasks and the data; training, evaluation and inference call the builders."""
CALLERS = ("training", "evaluation", "inference")
FRAMEWORKS = {"lightning", "hydra", "omegaconf", "wandb"}
MODULE = re.compile(rf"mtmamba(\.\w+)+|({'|'.join(FRAMEWORKS)})(\.\w+)*")


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever the import stands; ``mtmamba.x`` of ``from mtmamba import x``.

    A string that is a module's dotted name counts, too, as `import_module` takes it.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Constant) and re.fullmatch(MODULE, str(node.value)):
            yield node.value


def part(path: Path) -> str:
    """The package's part that a module belongs to: its first folder, or its own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def offenders(paths, wrong) -> list[str]:
    """Where something wrong is imported, as ``file: module``."""
    return [f"{path.relative_to(ROOT)}: {name}" for path in paths for name in imports(path) if wrong(path, name)]


def test_imports_point_one_way():
    def points_up(path, name):
        top, _, rest = name.partition(".")
        above = ABOVE[part(path)] | (set() if part(path) in CALLERS else TOP)
        return top == "mtmamba" and rest.split(".")[0] in above

    assert offenders([path for path in MODULES if part(path) in ABOVE], points_up) == []


def test_networks_and_metrics_know_no_framework():
    lower = [path for path in MODULES if part(path) in ("types", "kernels", "scan", "models", "losses", "metrics")]
    assert offenders(lower, lambda _, name: name.partition(".")[0] in FRAMEWORKS) == []


def test_prediction_knows_no_training_framework():
    paths = [path for path in MODULES if part(path) in ("inference", "tasks")]
    assert offenders(paths, lambda _, name: name.partition(".")[0] in FRAMEWORKS - {"omegaconf"}) == []


def test_kernels_alone_ask_where_a_tensor_lies():
    found = [p for p in MODULES if re.search(r"\.is_cuda\b", p.read_text(encoding="utf-8")) and part(p) != "kernels"]
    assert found == []


HYDRA = {
    "config/compose": "composes configurations from Python",
    "build": "makes objects of what has a ``_target_``",
    "command": "is Hydra's main, for every script",
    "jobs": "reads a sweep's rows from Hydra's record of it",
    "answers": "says Hydra's errors in our words",
}
"""The modules that import Hydra, and why each has to."""


def test_hydra_is_imported_where_configurations_are_composed():
    found = offenders(MODULES, lambda _, name: name.partition(".")[0] == "hydra")
    assert {line.partition(":")[0] for line in found} == {f"src/mtmamba/{name}.py" for name in HYDRA}


THEIRS = {
    "_replace", "_asdict", "_fields",  # of named tuples: public in spite of the line
    "_pytree", "_foreach_copy_", "_cdata", "_parameters", "_buffers", "_local_scalar_dense", "_to_copy",  # PyTorch's
    "_global_forward_hooks", "_global_forward_pre_hooks", "_version",
    "_defaults",  # torchmetrics': a metric's states before the first update
    "_attn", "_exit",  # of timm's Swin block; of Python's os
    "_patch_lang_tensor", "_patch_lang",  # of Triton's interpreter
    "_guards_code",  # of an exported program
}  # fmt: skip
"""Other libraries' names that have no public counterpart."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in THEIRS


def private_uses(path: Path) -> Iterator[str]:
    """Private names that a file takes from elsewhere: imported, or attributes that it does not itself define."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    own = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    own |= {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
    where = path.relative_to(ROOT)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{where}:{node.lineno}: {name.name}" for name in node.names if is_private(name.name))
        elif isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            yield f"{where}:{node.lineno}: {ast.unparse(node)}"


def test_no_module_reaches_into_anothers_private_names():
    assert [use for path in MODULES for use in private_uses(path)] == []


def test_no_test_reaches_into_a_private_name():
    assert [use for path in TESTS for use in private_uses(path)] == []


def test_tasks_are_named_where_their_facts_stand():
    """A string literal that is a task's name, as the first rule of ``docs/architecture.md`` has it."""
    allowed = ("tasks/", "data/datasets/", "data/synthetic/", "paper.py", "models/adapters/")
    literal = re.compile(r"[\"'](semseg|depth|normals|human_parts|sal|edge)[\"']")
    found = [
        f"{place}:{number}: {line.strip()}"
        for path in MODULES
        if not (place := path.relative_to(PACKAGE).as_posix()).startswith(allowed)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if literal.search(line)
    ]
    assert found == []
