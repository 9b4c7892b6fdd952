"""Networks in files that other programs run, each checked against PyTorch before it is left behind."""
