"""What real processes have loaded: each plane pays only for itself."""

import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mafunzo import Workspace

HEAVY = ("torch", "transformers", "mlflow", "peft", "datasets", "pandas", "matplotlib")


def loaded_after(program: str) -> set[str]:
    """Run `program` in a new interpreter; return the names of the modules that it has loaded."""
    listing = "import sys; print('\\n' + ' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", f"{program}\n{listing}"], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_mafunzo_loads_nothing_heavy():
    loaded = loaded_after("import mafunzo")
    assert not loaded & {*HEAVY, "sqlalchemy", "pydantic", "typer", "rich", "yaml"}


def test_help_loads_nothing_heavy():
    program = (
        "import sys\nfrom mafunzo.entrypoints.main import main\nsys.argv = ['mafunzo', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass"
    )
    loaded = loaded_after(program)
    assert not loaded & {*HEAVY, "sqlalchemy", "httpx", "pydantic", "fastapi"}


def test_a_list_loads_nothing_that_plans_supervises_or_migrates(tmp_path):
    Workspace(tmp_path).close()
    loaded = loaded_after(
        f"import mafunzo\nw = mafunzo.Workspace({str(tmp_path)!r})\nw.jobs.list(limit=1), w.users.list()"
    )
    assert "mafunzo.control.workspace.jobs" in loaded
    control = ("pipelines.plan", "serving.supervisor", "store.migration_5", "workspace.models", "workspace.submission")
    assert not loaded & {*HEAVY, "httpx", *(f"mafunzo.control.{module}" for module in control)}


def test_lists_of_endpoints_models_and_environments_load_nothing_that_plans_or_deploys(tmp_path):
    Workspace(tmp_path).close()
    loaded = loaded_after(
        f"import mafunzo\nw = mafunzo.Workspace({str(tmp_path)!r})\n"
        "w.endpoints.list(), w.deployments.of([]), w.models.list(), w.environments.list()"
    )
    assert {"mafunzo.control.workspace.models", "mafunzo.control.workspace.environments"} <= loaded
    control = ("pipelines.plan", "pipelines.decide", "serving.reference", "workspace.arguments", "workspace.computes")
    assert not loaded & {*HEAVY, "httpx", *(f"mafunzo.control.{module}" for module in control)}


def test_a_list_loads_no_list_of_processes_while_no_server_runs(tmp_path):
    Workspace(tmp_path).close()
    assert "psutil" not in loaded_after(f"import mafunzo\nmafunzo.Workspace({str(tmp_path)!r}).users.list()")


def test_the_control_plane_loads_nothing_of_the_compute_plane():
    loaded = loaded_after("import mafunzo.entrypoints.serve.application, mafunzo.control.workspace")
    assert not loaded & set(HEAVY)


def test_a_step_loads_nothing_of_the_control_plane():
    loaded = loaded_after("import mafunzo.compute.components.finetune, mafunzo.compute.components.evaluate")
    assert not loaded & {"sqlalchemy", "fastapi", "typer", "mlflow"}


@pytest.mark.parametrize(
    "module", ["components.finetune", "components.evaluate", "inference.worker", "components.import_model"]
)
def test_a_process_that_loads_a_network_leaves_out_what_few_networks_need(module):
    program = (
        f"import runpy, sys\nsys.argv = ['x', '--help']\ntry:\n    runpy.run_module('mafunzo.compute.{module}', "
        "run_name='__main__')\nexcept SystemExit:\n    pass"
    )
    loaded = loaded_after(program)
    assert "transformers.modeling_utils" in loaded
    assert not loaded & {"scipy", "sklearn", "peft", "pandas", "datasets"}


def test_reading_prepared_rows_loads_neither_pandas_nor_partitioned_data_sets(tmp_path):
    table = pa.table({"input_ids": [[1, 2, 3]], "labels": [[-100, 2, 3]]})
    pq.write_table(table, tmp_path / "train.parquet")
    loaded = loaded_after(
        "from pathlib import Path\nfrom mafunzo.compute.training.batch import read_rows\n"
        f"read_rows(Path({str(tmp_path / 'train.parquet')!r}), (('input_ids', 'labels'),))"
    )
    assert not loaded & {"pandas", "pyarrow.dataset"}


def test_the_runner_loads_little():
    """It is started for every step and worker, and lives as long."""
    assert not {"dataclasses", "inspect", "psutil", "mafunzo.errors"} & loaded_after(
        "import mafunzo.control.launcher.runner"
    )


@pytest.mark.parametrize("module", ["entities.parameters.table", "compute.device.out_of_memory"])
def test_what_both_planes_read_loads_no_torch(module):
    assert not {"torch", "transformers"} & loaded_after(f"import mafunzo.{module}")
