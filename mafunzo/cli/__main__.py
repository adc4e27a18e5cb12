"""`python -m mafunzo.cli`: the same as `mafunzo`."""

from mafunzo.cli import main

if __name__ == "__main__":
    main()
