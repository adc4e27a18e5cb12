"""A metric is declared where it is computed; names, checks and interfaces follow."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from mafunzo.compute.components.command import load_interface

ROOT = Path(__file__).resolve().parents[2]
LINE = '        Metric("loss", "Loss (nats a token)", "likelihood", False, loss),\n'


def test_a_new_line_of_the_registry_reaches_every_interface_in_one_run_of_the_generator(tmp_path: Path) -> None:
    for folder in ("mafunzo", "tools", "docs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", tmp_path)
    registry = tmp_path / "mafunzo" / "compute" / "evaluation" / "metrics.py"
    text = registry.read_text()
    assert LINE in text
    registry.write_text(text.replace(LINE, LINE + LINE.replace('"loss"', '"nats"')))
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    subprocess.run([sys.executable, "tools/generate.py"], cwd=tmp_path, env=environment, check=True)
    for name in ("evaluate", "compare_models", "chat_completion_pipeline"):
        body = yaml.safe_load((tmp_path / "mafunzo" / "compute" / "components" / f"{name}.yml").read_text())
        before = load_interface(ROOT / "mafunzo" / "compute" / "components" / f"{name}.yml").inputs["gate_metric"].enum
        assert tuple(body["inputs"]["gate_metric"]["enum"]) == ("loss", "nats", *before[1:])
    code = (
        "from mafunzo.entities.evaluation import evaluation_config, unmeasured;"
        'config = evaluation_config({"params": \'{"metrics": ["nats"]}\'});'
        'assert config.metrics == ("nats",) and not unmeasured(config, 0, "better", "nats")'
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True)
