"""Getting datasets: downloads that go on, safe unpacking, official sources, checks of every file."""
