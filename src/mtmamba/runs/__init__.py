"""A run's folder: what is written there, and how runs are found again."""
