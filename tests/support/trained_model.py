"""A registered model whose lineage leads to rows that it was trained on, in the records only: no training, no network."""

import json
from pathlib import Path
from typing import Any

from mafunzo.control.store.artifact import Artifacts
from mafunzo.control.store.records import Records
from mafunzo.entities.asset import WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.job import Job, JobStatus, Step, StepSpec, StepStatus

ROWS = [
    ("Where does the train to Mombasa leave?", "It leaves from the central station at seven in the morning."),
    ("What do zebras eat?", "They eat grass, leaves and bark."),
    ("How is chai made?", "Boil milk, water, tea and sugar together."),
]


def add_rows(artifacts: Artifacts, folder: Path) -> str:
    """Store the rows as a jsonl file; return its hash."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "train.jsonl"
    rows = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        for asked, said in ROWS
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return artifacts.put(file)


def add_job(records: Records, data: str, artifact: str, name: str = "j1") -> Job:
    """Add a job that has ended: trained on `data`, its tuned model's files are `artifact`."""
    step = Step(
        name,
        StepSpec("package_model", "package_model:1", "sha256:code", "true"),
        StepStatus.COMPLETED,
        outputs={"mlflow_model": artifact},
        cache_key="k1",
    )
    inputs: dict[str, Any] = {"train_file_path": {"artifact": data, "name": "train.jsonl"}}
    return records.jobs.add(Job(name, "j", "chat", "c:1", inputs=inputs, status=JobStatus.COMPLETED), [step])


def add_model(records: Records, artifact: str, **properties: Any) -> Asset:
    """Register the files as `m:1`."""
    key = AssetKey(WORKSPACE_SCOPE, AssetType.MODEL, "m", "1")
    return records.assets.add(Asset(key, FolderType.CUSTOM_MODEL, artifact, properties=properties))
