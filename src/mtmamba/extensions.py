"""Python files of people's own, imported first: they register tasks and datasets."""

import hashlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from mtmamba.config_checks import ConfigError


def load_extensions(files: Iterable[str]) -> None:
    """Import files of yours, which may register tasks and datasets; each once a process.

    Raises:
        ConfigError: a file is missing or cannot be imported.
    """
    for file in files:
        path = Path(file).expanduser().resolve()
        name = f"mtmamba_extension_{hashlib.blake2b(str(path).encode(), digest_size=8).hexdigest()}"
        if name in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(name, path)
        if not path.is_file() or spec is None or spec.loader is None:
            raise ConfigError(f"Expected a Python file in extensions, got {path}: correct extensions=[FILE.py].")
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
