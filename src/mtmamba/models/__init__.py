"""Encoders, the task-axis decoder and their parts. Knows nothing of Lightning, Hydra or loggers."""
