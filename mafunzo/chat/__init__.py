"""Messages to tokens and back: a model's own chat template, and which tokens the assistant wrote."""
