"""How Lightning writes and reads checkpoints of this program."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from mtmamba.checkpoints import read_checkpoint, save_checkpoint


class AtomicCheckpointIO(TorchCheckpointIO):
    """Write checkpoints to a temporary name beside their own, then rename; read them with ``weights_only``.

    Args:
        read: the content of a file that has been read already, by its path; given out once.
    """

    def __init__(self, read: Mapping[Path, dict[str, Any]] | None = None) -> None:
        self._read = dict(read or {})

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Replace ``path`` by the new checkpoint in one step."""
        save_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: str | Path, *_: Any, **__: Any) -> dict[str, Any]:
        """Read a checkpoint's tensors and plain values."""
        content = self._read.pop(Path(path), None)
        return read_checkpoint(Path(path)) if content is None else content
