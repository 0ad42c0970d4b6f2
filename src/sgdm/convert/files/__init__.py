"""Checkpoint formats, one module each, with the same two verbs.

    read(path, weights=None)            a context manager that yields a `Checkpoint`
    write(path, checkpoint, template=None)   writes the file whole or not at all

Tensors are in torch's layout on this side of both, whatever the file's is.
"""
