"""Conversion of optimizer state and checkpoint files between conventions and frameworks."""
