"""The numbers of the figures, computed and not drawn: every step in them is one of `sgdm.SGD`."""
