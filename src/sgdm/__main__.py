"""`python -m sgdm` is the command line, where the script is not on the path."""

from sgdm.cli import main

if __name__ == "__main__":
    main()
