"""The routes of the https port, one module a noun."""
