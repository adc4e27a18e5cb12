"""How a step or a worker becomes a process on this machine, and what is known of it afterwards."""
