"""Data sets and downstream tasks on top of the systems: fine-tuning, probing, real data."""
