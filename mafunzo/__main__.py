"""`python -m mafunzo`: the same as `mafunzo`."""

from mafunzo.entrypoints.main import main

if __name__ == "__main__":
    main()
