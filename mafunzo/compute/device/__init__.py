"""What the machine has: the number formats it computes in, and how it says that its memory ran out."""
