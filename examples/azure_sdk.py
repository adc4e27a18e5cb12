"""The whole workflow with Azure's own SDK: on this machine by `mafunzo run examples/azure_sdk.py`, without it on Azure.

    mafunzo run examples/azure_sdk.py [MODEL]

It takes a model of the registry, a cluster, conversations, a tuning pipeline, the tuned model, an endpoint and its answer, and
deletes the endpoint.
"""

import json
import subprocess
import sys
import time
from pathlib import Path

from azure.ai.ml import Input, MLClient
from azure.ai.ml.constants import AssetTypes
from azure.ai.ml.dsl import pipeline
from azure.ai.ml.entities import (
    AmlCompute,
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
    Model,
    OnlineRequestSettings,
    ProbeSettings,
)
from azure.identity import DefaultAzureCredential

CLUSTER, SIZE = "gpu-cluster", "Standard_ND40rs_v2"
FOLDER = Path("ultrachat_200k_dataset")


def main(name: str = "Phi-3-mini-4k-instruct") -> None:
    """Tune `name`, serve it, ask it."""
    credential = DefaultAzureCredential()
    workspace, registry = MLClient.from_config(credential), MLClient(credential, registry_name="azureml")
    base = registry.models.get(name, label="latest")
    workspace.compute.begin_create_or_update(AmlCompute(name=CLUSTER, size=SIZE, max_instances=2)).wait()
    gpus = next(size.gpus for size in workspace.compute.list_sizes() if size.name == SIZE)

    download = "python download-dataset.py --dataset HuggingFaceH4/ultrachat_200k --dataset_split_pc 5"
    subprocess.run([*download.split(), "--download_dir", str(FOLDER)], check=True)

    tune = registry.components.get(name="chat_completion_pipeline", label="latest")

    @pipeline(name=f"{name}-tuned")
    def tuning():
        steps = ("model_import", "preprocess", "finetune", "model_evaluation")
        node = tune(
            mlflow_model_path=base.id,
            train_file_path=Input(type="uri_file", path=str(FOLDER / "train_sft.jsonl")),
            test_file_path=Input(type="uri_file", path=str(FOLDER / "test_sft.jsonl")),
            **{f"compute_{step}": CLUSTER for step in steps},
            number_of_gpu_to_use_finetuning=gpus,
            num_train_epochs=1,
            learning_rate=5e-4,
            lr_scheduler_type="cosine",
            precision=16,
            apply_lora="true",
            apply_deepspeed="true",
            deepspeed_stage=2,
        )
        return {"trained_model": node.outputs.mlflow_model_folder}

    job = workspace.jobs.create_or_update(tuning(), experiment_name=name)
    workspace.jobs.stream(job.name)

    version = str(int(time.time()))
    path = f"azureml://jobs/{job.name}/outputs/trained_model"
    model = workspace.models.create_or_update(
        Model(path=path, type=AssetTypes.MLFLOW_MODEL, name=f"{name}-tuned", version=version)
    )
    endpoint = ManagedOnlineEndpoint(name=f"chat-{version}", auth_mode="key")
    workspace.begin_create_or_update(endpoint).wait()
    deployment = ManagedOnlineDeployment(
        name="demo",
        endpoint_name=endpoint.name,
        model=model.id,
        instance_type="Standard_NC6s_v3",
        instance_count=1,
        liveness_probe=ProbeSettings(initial_delay=600),
        request_settings=OnlineRequestSettings(request_timeout_ms=90_000),
    )
    workspace.online_deployments.begin_create_or_update(deployment).wait()
    endpoint.traffic = {"demo": 100}
    workspace.begin_create_or_update(endpoint).result()

    messages = [{"role": "user", "content": "Habari! How was your day?"}]
    request = FOLDER / "sample_score.json"
    parameters = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "max_new_tokens": 60}
    request.write_text(json.dumps({"input_data": {"input_string": [messages], "parameters": parameters}}))
    answer = workspace.online_endpoints.invoke(endpoint.name, deployment_name="demo", request_file=str(request))
    print("The answer:", json.loads(answer)["output"])
    workspace.online_endpoints.begin_delete(endpoint.name).wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
