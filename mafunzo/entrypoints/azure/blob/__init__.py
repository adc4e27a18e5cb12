"""Blob Storage's dialect, for block blobs."""
