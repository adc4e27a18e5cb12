"""What a user's step is told in Azure's words."""

from pathlib import Path

from mafunzo.entrypoints.azure.client.environment import Access
from mafunzo.entrypoints.azure.step_environment import step_variables


def test_a_users_step_finds_its_run_by_the_variables_of_azure() -> None:
    variables = step_variables("job1", "chat", "run1", {}, {})
    assert (variables["AZUREML_ROOT_RUN_ID"], variables["AZUREML_RUN_ID"]) == ("job1", "run1")
    assert variables["AZUREML_ARM_PROJECT_NAME"] == "chat"


def test_a_users_step_finds_each_input_and_output_by_its_name() -> None:
    variables = step_variables("job1", "chat", "run1", {"rate": "0.5"}, {"out": "/step/outputs/out"})
    assert variables["AZURE_ML_INPUT_rate"] == "0.5"
    assert variables["AZURE_ML_OUTPUT_out"] == "/step/outputs/out"


def test_the_sdk_in_a_step_finds_this_server_and_logs_in_by_the_steps_token() -> None:
    access = Access("https://127.0.0.1:8443", "step-token", Path("/home/tls/bundle.pem"))
    variables = step_variables("job1", "chat", "run1", {}, {}, access)
    assert variables["IDENTITY_ENDPOINT"] == "https://127.0.0.1:8443/msi/token"
    assert (variables["IDENTITY_HEADER"], variables["REQUESTS_CA_BUNDLE"]) == ("step-token", "/home/tls/bundle.pem")
    assert variables["AZUREML_CURRENT_CLOUD"] == "Mafunzo" and variables["AZUREML_RUN_ID"] == "run1"
