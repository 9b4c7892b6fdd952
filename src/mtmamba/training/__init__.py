"""Training: the Lightning module, its callbacks and loggers, and what the training script does."""
