"""One encoder for many modalities, trained to predict masked patches or tokens from visible ones."""
