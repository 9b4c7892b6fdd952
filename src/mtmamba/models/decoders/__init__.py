"""Decoders, a file each: four encoder maps to every task's logits."""
