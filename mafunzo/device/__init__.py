"""What the machine has: its number formats and its memory."""
