"""The control plane: keeps books and starts processes. It never imports torch."""
