"""What steps run: `x.yml` is a component's interface, `x.py` its command line from folders to folders."""
