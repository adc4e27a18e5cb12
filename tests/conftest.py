"""What holds for every test: processes and threads that wait for one another do it asleep."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch is loaded; several tests share the cores
