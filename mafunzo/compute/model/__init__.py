"""Networks: how they are loaded, and LoRA adapters on them."""
