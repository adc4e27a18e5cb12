"""The server process: alone with `main` it knows all ways in, and leaves out one that is absent."""
