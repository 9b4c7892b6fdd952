"""Folders that a wheel holds inside the package, and a checkout outside of it."""

from pathlib import Path

PACKAGE = Path(__file__).parent


def config_dir() -> Path:
    """Return the folder of the YAML files."""
    return _either(PACKAGE / "configs", PACKAGE.parents[1] / "configs")


def released_dir() -> Path:
    """Return the folder of our own released models."""
    return _either(PACKAGE / "released_models", PACKAGE.parents[1] / "models")


def script_dir() -> Path:
    """Return the folder of the scripts."""
    return _either(PACKAGE / "scripts", PACKAGE.parent)


def _either(inside: Path, outside: Path) -> Path:
    return inside if inside.is_dir() else outside
