"""From a base model and prepared rows to a tuned one: the training loop and all that it is made of."""
