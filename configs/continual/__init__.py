"""Training on one data set after another without losing what the earlier ones taught."""
