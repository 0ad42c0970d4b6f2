"""Looks for files that a reader of `sgdm.convert.files` does not refuse as it should.

    pip install atheris
    python fuzz/fuzz_convert.py optax                           # until something is found
    python fuzz/fuzz_convert.py keras corpus/ -max_total_time=3600

A format is named by its module; the corpus is a folder that the findings on the way are kept in,
beside the recordings of tests/conformance/files. A crash leaves the file that made it.
"""  # noqa: INP001

import sys
import tempfile
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from sgdm.convert import files
from sgdm.errors import FileError

__all__ = ["FORMATS", "read_broken"]

FORMATS = [module.name for module in iter_modules(files.__path__)]
_RECORDED = Path(__file__).parents[1] / "tests" / "conformance" / "files"


def read_broken(name: str, data: bytes, path: Path) -> bool:
    """Read a file and all tensors in it; return whether it was refused, as it may be.

    Args:
        name: Of the format.
        data: What is in the file.
        path: Where to put it.

    Raises:
        Exception: Whatever else the reader raises, which is what is looked for.
    """
    path.write_bytes(data)
    try:
        with import_module(f"{files.__name__}.{name}").read(path) as checkpoint:
            for slot in checkpoint.slots:
                for stored in (slot.parameter, slot.buffer):
                    if stored is not None:
                        stored.read()
    except FileError as error:
        if str(path) not in str(error):
            raise
        return True
    return False


def _main(arguments: list[str]) -> None:
    if not arguments or arguments[0] not in FORMATS:
        sys.exit(f"give a format, one of {', '.join(FORMATS)}")
    atheris = import_module("atheris")
    name, *rest = arguments
    with atheris.instrument_imports():
        import_module(f"{files.__name__}.{name}")
    with tempfile.TemporaryDirectory() as folder:
        path, corpus = Path(folder, "x"), Path(folder, "corpus")
        corpus.mkdir()
        if all(option.startswith("-") for option in rest):
            rest.append(str(corpus))  # libFuzzer writes into the first folder that it is given
        options = [sys.argv[0], *rest, str(_RECORDED), "-rss_limit_mb=4096", "-timeout=10"]

        def target(data: bytes) -> None:
            read_broken(name, data, path)

        atheris.Setup(options, target)
        atheris.Fuzz()


if __name__ == "__main__":
    _main(sys.argv[1:])
