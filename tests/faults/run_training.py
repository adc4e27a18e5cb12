"""A training process that tests kill: `python run_training.py BASE PREPARED OUTPUT VALUES [EARLIER OUTPUT ...]`."""

import json
import sys
from pathlib import Path

from mafunzo.compute.training.arguments import TrainingArguments
from mafunzo.compute.training.run import TrainingRequest
from mafunzo.compute.training.trainer import finetune

base, prepared, output, values, *earlier = sys.argv[1:]
arguments = TrainingArguments.from_values(json.loads(values))
finetune(TrainingRequest(Path(base), Path(prepared), Path(output), arguments, earlier=tuple(map(Path, earlier))))
