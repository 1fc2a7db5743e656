"""Which tokens are seen and which are predicted: pure functions of an explicit key."""
