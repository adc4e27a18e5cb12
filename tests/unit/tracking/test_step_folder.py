from pathlib import Path

import pytest

from mafunzo.tracking.step_folder import StepFolder

FOLDER = StepFolder.of(Path("/home/jobs"), "j", "finetune", 2)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (FOLDER.path, "finetune/2"),
        (FOLDER.log, "finetune/2/log.txt"),
        (FOLDER.log_of(0), "finetune/2/log.txt"),
        (FOLDER.log_of(3), "finetune/2/log.3.txt"),
        (FOLDER.process, "finetune/2/process.json"),
        (FOLDER.exit, "finetune/2/exit.json"),
        (FOLDER.error, "finetune/2/error.json"),
        (FOLDER.metrics, "finetune/2/metrics.jsonl"),
        (FOLDER.inputs, "finetune/2/inputs"),
        (FOLDER.outputs, "finetune/2/outputs"),
        (FOLDER.code, "finetune/2/code"),
        (FOLDER.environment, "finetune/2/environment"),
        (FOLDER.key, "finetune/key.json"),
    ],
)
def test_files_of_a_home_keep_their_names(path, expected):
    """Homes of earlier versions have these: running steps are adopted by them."""
    assert path == Path("/home/jobs/j") / expected
