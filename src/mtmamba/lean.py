"""Importing this imports timm, but not W&B with it, which takes half a second and serves timm's own training alone."""

import sys

if "wandb" not in sys.modules:
    sys.modules["wandb"] = None  # type: ignore[assignment]  # as if it were not installed
    try:
        import timm  # noqa: F401
    finally:
        del sys.modules["wandb"]
