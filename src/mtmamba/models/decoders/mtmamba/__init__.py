"""The decoders of MTMamba and MTMamba++: their blocks, heads and stages."""
