"""Experiment tracking: what a step writes, its folder, metrics and progress. Light, because every step imports it."""
