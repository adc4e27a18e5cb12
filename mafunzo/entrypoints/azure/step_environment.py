"""The environment variables by which a program on Azure finds what it runs in, for a user's step."""

import os
from collections.abc import Mapping

from mafunzo.entrypoints.azure.client.environment import Access, azure_environment
from mafunzo.entrypoints.azure.wire.envelope import RESOURCE_GROUP, SUBSCRIPTION, WORKSPACE


def step_variables(
    job: str,
    experiment: str,
    run_id: str,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    access: Access | None = None,
) -> dict[str, str]:
    """Return the variables that name the workspace, the job and its run, and each input and output by its value or path.

    access: with which the step's program logs in, as the job's own identity, by `DefaultAzureCredential()`.
    """
    return {
        **(azure_environment(access, os.environ) if access else {}),
        "AZUREML_ARM_SUBSCRIPTION": SUBSCRIPTION,
        "AZUREML_ARM_RESOURCEGROUP": RESOURCE_GROUP,
        "AZUREML_ARM_WORKSPACE_NAME": WORKSPACE,
        "AZUREML_ARM_PROJECT_NAME": experiment,
        "AZUREML_ROOT_RUN_ID": job,
        "AZUREML_RUN_ID": run_id,
        **{f"AZURE_ML_INPUT_{name}": value for name, value in inputs.items()},
        **{f"AZURE_ML_OUTPUT_{name}": path for name, path in outputs.items()},
    }
