"""The kernels alone, with many tiles and launches, on a GPU: each module is a program."""
