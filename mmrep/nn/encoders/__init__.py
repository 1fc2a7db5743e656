"""Encoders, one file a kind: a frozen config and its module. A config has `module(dtype, name, pooled_only)` (see `mmrep.nn.dual.Encoder`)."""
