"""What holds for every test: processes and threads that wait for one another do it asleep."""

import gc
import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded; several tests share the cores


def pytest_collection_finish() -> None:
    """Take what the imports left out of the garbage collector's sight: it would go through torch's and transformers' objects often."""
    gc.collect()
    gc.freeze()
