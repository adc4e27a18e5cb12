"""Compare a tuned model with its base on held-out rows; write the report, and what an endpoint must reproduce."""

if __name__ == "__main__":  # before anything else imports transformers
    from mafunzo.compute.model.quick_start import import_networks

    import_networks()

import logging
import sys
from pathlib import Path

import torch

from mafunzo.compute.components.command import Arguments, run
from mafunzo.compute.evaluation.compare import check_gate
from mafunzo.compute.evaluation.evaluate import evaluate
from mafunzo.compute.evaluation.report import logged_metrics, table_text, write_report
from mafunzo.compute.evaluation.request import EvaluationArguments, EvaluationRequest
from mafunzo.compute.evaluation.serving_reference import serving_reference
from mafunzo.compute.evaluation.tasks import raw_rows
from mafunzo.compute.inference.executor_torch import serving_dtype
from mafunzo.entities.evaluation import EvaluationConfig, evaluation_config, too_few, unmeasured
from mafunzo.errors import InvalidParameter
from mafunzo.tracking.atomic_json import write_json

logger = logging.getLogger(__name__)


def work(arguments: Arguments) -> None:
    """Everything is written before the gate is looked at, so that a model that fails it can be understood."""
    logging.getLogger("absl").setLevel(logging.WARNING)  # rouge-score tells of each scorer that it makes
    values = EvaluationArguments(**arguments.values)
    base, device = arguments.path("model"), "cuda" if torch.cuda.is_available() else "cpu"
    request = EvaluationRequest(
        base,
        arguments.path("tuned"),
        arguments.path("prepared"),
        values,
        _config(arguments.paths["evaluation_config"], values.evaluation_config_params),
        serving_dtype(base, device),
        device,
    )
    faults = unmeasured(request.config, values.generation_rows, values.gate, values.gate_metric)
    faults += too_few(arguments.values)
    if faults:
        raise InvalidParameter("The evaluation can't start.", faults)
    out = arguments.outputs["evaluation_result"]
    out.mkdir(parents=True, exist_ok=True)
    logger.info("Evaluating %s and %s on %s", base, request.tuned, device)
    evaluation = evaluate(request, scratch=out)
    write_report(evaluation, out)
    logger.info("Asking plain transformers what the endpoint must reproduce")
    reference = serving_reference(
        base,
        request.tuned,
        values.merge_lora_weights,
        raw_rows(request.prepared),
        rows=values.reference_rows,
        max_tokens=values.reference_max_tokens,
        dtype=request.dtype,
        device=device,
        trust_remote_code=values.trust_remote_code,
    )
    write_json(out / "serving_reference.json", reference, indent=1, ensure_ascii=False)
    arguments.metrics.log(0, logged_metrics(evaluation))
    sys.stdout.write(f"\n{table_text(evaluation)}\nThe whole report is report.html of the output evaluation_result\n")
    kl, prompts = (evaluation.forgetting.kl, evaluation.forgetting.prompts) if evaluation.forgetting else (None, 0)
    check_gate(values.gate, values.gate_metric, evaluation.comparisons, values.gate_max_kl, kl, prompts)


def _config(file: Path | None, params: str | None) -> EvaluationConfig:
    texts = {f"evaluation_config ({file.name})": file.read_text(encoding="utf-8")} if file else {}
    return evaluation_config(texts | ({"evaluation_config_params": params} if params else {}))


if __name__ == "__main__":
    run(__file__, work)
