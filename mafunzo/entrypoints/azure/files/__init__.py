"""The YAML files of `az ml`."""
