"""The engines: each runs a step plan. They know coefficients and tensors, never conventions."""
