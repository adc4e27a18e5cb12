"""The compute plane: the arithmetic, in processes that may die."""
