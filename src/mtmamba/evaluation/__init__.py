"""Scores worth publishing, of checkpoints or folders of predictions: intervals, classes, the worst images."""
