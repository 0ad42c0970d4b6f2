"""The training job: a real network on real data, under one convention or several side by side."""
