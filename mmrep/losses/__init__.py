"""Losses as free functions: arrays in, unreduced float32 values out; `reduce.masked_mean` makes the scalar."""
