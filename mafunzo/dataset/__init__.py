"""Rows before they are tokens: files, chat formats, checks row by row, splits, and the catalogue's data sets."""
