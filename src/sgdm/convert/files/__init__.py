"""Checkpoint formats, one module each, with the same two verbs.

    read(path, weights=None)            a context manager that yields a `Checkpoint`
    prepare(path, checkpoint, template=None) makes every check, and returns what writes the file

Tensors are in torch's layout on this side of both, whatever the file's is.
"""
