"""Records in, batches out: sources, tokenisers, the made world, and the pipeline whose order is a function of (seed, step)."""
