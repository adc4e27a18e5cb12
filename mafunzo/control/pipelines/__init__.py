"""Jobs: a pure plan of their steps, a pure decision what happens next, and the loop that does it."""
