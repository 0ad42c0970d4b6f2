"""The process of the command line: `sgdm`, or `python -m sgdm` where it is not on the path."""

import os
import sys

from sgdm.cli import main
from sgdm.training.environment import is_one_of_several

__all__ = ["run"]


def run() -> None:
    """Run the command line, and end this process."""
    try:
        main()
    except SystemExit as end:
        if is_one_of_several():
            # Python's own end may destroy a thread of torch's communication while it runs, and
            # abort after all is done (seen once in some dozen runs).
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(end.code or 0))
        raise


if __name__ == "__main__":
    run()
