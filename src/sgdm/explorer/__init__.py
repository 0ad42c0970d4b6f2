"""The explorer: one page, without a network, that compares conventions as sliders move."""

from sgdm.explorer.page import make_page, write_page

__all__ = ["make_page", "write_page"]
