"""What a user's step is told in Azure's words."""

from mafunzo.entrypoints.azure.step_environment import step_variables


def test_a_users_step_finds_its_run_by_the_variables_of_azure() -> None:
    variables = step_variables("job1", "chat", "run1", {}, {})
    assert (variables["AZUREML_ROOT_RUN_ID"], variables["AZUREML_RUN_ID"]) == ("job1", "run1")
    assert variables["AZUREML_ARM_PROJECT_NAME"] == "chat"


def test_a_users_step_finds_each_input_and_output_by_its_name() -> None:
    variables = step_variables("job1", "chat", "run1", {"rate": "0.5"}, {"out": "/step/outputs/out"})
    assert variables["AZURE_ML_INPUT_rate"] == "0.5"
    assert variables["AZURE_ML_OUTPUT_out"] == "/step/outputs/out"
