"""Imports point one way, nobody reaches into another's private names, and tasks are named where their facts stand."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src/mtmamba"
MODULES = sorted(PACKAGE.rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

FRAMEWORKS = {"lightning", "hydra", "omegaconf", "wandb"}


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever the import stands; ``mtmamba.x`` of ``from mtmamba import x``."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def part(path: Path) -> str:
    """The package's part that a module belongs to: its first folder, or its own name."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def offenders(paths, wrong) -> list[str]:
    """Where something wrong is imported, as ``file: module``."""
    return [f"{path.relative_to(ROOT)}: {name}" for path in paths for name in imports(path) if wrong(path, name)]


def test_networks_and_metrics_know_no_framework():
    lower = [path for path in MODULES if part(path) in ("types", "kernels", "scan", "models", "losses", "metrics")]
    assert offenders(lower, lambda _, name: name.partition(".")[0] in FRAMEWORKS) == []
