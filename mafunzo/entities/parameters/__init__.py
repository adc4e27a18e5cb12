"""Every parameter of a job, declared once, and the components and pipelines that take them."""
