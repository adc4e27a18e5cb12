"""Messages to tokens and back: the chat template, the loss mask (which tokens the assistant wrote), LoRA adapters."""
