"""Datasets before tokenization: files, chat formats, row checks, train/validation/test splits, dataset download."""
