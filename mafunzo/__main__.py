"""`python -m mafunzo`: the same as `mafunzo`."""

from mafunzo.cli.app import main

if __name__ == "__main__":
    main()
