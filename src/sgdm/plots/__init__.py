"""Figures, from numbers that are computed elsewhere."""
