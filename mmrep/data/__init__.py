"""Sources of records, tokenisers, synthetic scenes, and the pipeline from records to batches, whose order is a function of (seed, step)."""
