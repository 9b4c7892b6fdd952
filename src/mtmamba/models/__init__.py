"""Encoders, the task-axis decoder and their parts. Knows nothing of Lightning, Hydra or loggers."""

import mtmamba.lean  # noqa: F401 - before any module here imports timm
