"""Nouns that a user can name: frozen values without I/O."""
