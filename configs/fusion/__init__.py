"""A fusion encoder on top of two unimodal encoders, trained to match pairs and to predict masked words."""
