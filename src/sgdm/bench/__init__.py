"""The benchmark: what a step costs, beside torch's own ways to take it."""
