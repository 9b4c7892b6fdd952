"""Python files of people's own, imported first: they register tasks and datasets, and hold what ``_target_`` names."""

import importlib.util
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path

from mtmamba.config.settings import ConfigError


def load_extensions(files: str | Path | Iterable[str | Path]) -> None:
    """Import files of yours, or a single one, as modules of their names, each once a process: ``fpn.py`` as ``fpn``.

    They may register tasks and datasets, and ``_target_: fpn.FPN`` finds what is in them.

    Raises:
        ConfigError: a file is missing, is no Python file, has the name of another module, or raises an error.
    """
    for path in find_extensions(files):
        name = path.stem
        found = importlib.util.find_spec(name)
        if found is not None and found.origin is not None and Path(found.origin).resolve() != path:
            raise ConfigError(
                f"Expected extensions with names of their own, got {path} beside {found.origin}: rename it."
            )
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[name]
            if isinstance(error, KeyboardInterrupt) or str(error).startswith("Expected "):
                raise
            lines = [
                f" (line {f.lineno})" for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)
            ]
            raise ConfigError(
                f"Expected {path} to be imported without an error, got {type(error).__name__}: {error}"
                f"{''.join(lines[-1:])}: mend it; HYDRA_FULL_ERROR=1 shows its traceback."
            ) from error


def find_extensions(files: str | Path | Iterable[str | Path]) -> Iterator[Path]:
    """Yield the paths of Python files, or of a single one.

    Raises:
        ConfigError: a file is missing, or is no Python file.
    """
    for file in [files] if isinstance(files, str | Path) else files:
        path = Path(str(file)).expanduser().resolve()
        if not path.is_file() or path.suffix != ".py" or not path.stem.isidentifier() or path.stem == "__main__":
            raise ConfigError(f"Expected a Python file in extensions, got {path}: correct extensions=[FILE.py].")
        yield path
