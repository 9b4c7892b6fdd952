"""The console command: ``mtmamba train …`` is ``python src/train.py …``, wherever the package is installed."""

import ast
import runpy
import sys
from pathlib import Path

from mtmamba.answers import meant
from mtmamba.shipped import script_dir

OF_THE_REPOSITORY = ("results", "evidence")
"""Scripts that write the repository's own pages."""


def scripts() -> dict[str, Path]:
    """Return the scripts by name."""
    return {path.stem: path for path in sorted(script_dir().glob("*.py")) if path.stem not in OF_THE_REPOSITORY}


def main() -> None:
    """Run a script by name, as if it had been called itself: other devices' processes call it so."""
    known, (name, *rest) = scripts(), [*sys.argv[1:], ""]
    if name in ("", "-h", "--help"):
        lines = [f"  {name:20}{_purpose(path)}" for name, path in known.items()]
        sys.stdout.write("\n".join(["Usage: mtmamba COMMAND [KEY=VALUE …]; mtmamba COMMAND --help", "", *lines, ""]))
        sys.exit(0 if name else 1)
    if name not in known:
        sys.exit(f"Error: Expected a command out of {', '.join(known)}, got {name}{meant(name, known)}")
    sys.argv = [str(known[name]), *rest[:-1]]
    runpy.run_path(str(known[name]), run_name="__main__")


def _purpose(script: Path) -> str:
    """Return the first sentence of a script's docstring, without the call."""
    return (ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "").partition(":")[0]


if __name__ == "__main__":
    main()
