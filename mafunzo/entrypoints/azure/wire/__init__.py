"""Azure Machine Learning's JSON and YAML."""
