"""Encoders and their parts as flax.linen modules, used only through `init` and `apply`."""
