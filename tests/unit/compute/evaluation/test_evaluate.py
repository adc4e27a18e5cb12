import dataclasses
import json
from pathlib import Path

import pytest
import torch

from mafunzo.compute.chat.tokenizer import load_tokenizer
from mafunzo.compute.components import evaluate as evaluate_step
from mafunzo.compute.components.tiny_model import make
from mafunzo.compute.evaluation.evaluate import evaluate
from mafunzo.compute.evaluation.report import logged_metrics, metrics_body, report_html, table_text, warnings
from mafunzo.compute.evaluation.request import EvaluationArguments, EvaluationRequest
from mafunzo.compute.evaluation.result import Evaluation
from mafunzo.compute.model.loading import load_network
from mafunzo.entities.evaluation import EvaluationConfig
from mafunzo.errors import FailedError, NotSupported
from tests.support.component_line import values_of
from tests.support.tiny_evaluation import Folders


def request(folders: Folders, config: EvaluationConfig | None = None, **options: object) -> EvaluationRequest:
    options = {"max_new_tokens": 6, "generation_rows": 5, "forgetting_prompts": 8} | options
    arguments = EvaluationArguments(**values_of(evaluate_step, folders.base, **options))
    paths = folders.base, folders.tuned, folders.prepared
    return EvaluationRequest(*paths, arguments, config or EvaluationConfig())


@pytest.fixture(scope="module")
def evaluation(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return evaluate(request(folders), tmp_path_factory.mktemp("scratch"))


def test_an_adapter_that_saw_the_rows_is_shown_to_be_better(evaluation: Evaluation) -> None:
    assert evaluation.comparisons["loss"].is_better and evaluation.comparisons["perplexity"].is_better
    assert len(evaluation.comparisons) == 11
    assert (evaluation.tuned_loss_by_row < evaluation.base_loss_by_row).all()
    assert evaluation.forgetting is not None and evaluation.forgetting.kl.low > 0


@pytest.mark.parametrize("merge", [True, False])
def test_merged_or_beside_the_weights_the_adapter_is_applied(
    folders: Folders, evaluation: Evaluation, tmp_path: Path, merge: bool
) -> None:
    again = evaluate(request(folders, merge_lora_weights=merge, generation_rows=0, forgetting_prompts=0), tmp_path)
    assert again.tuned_loss_by_row == pytest.approx(evaluation.tuned_loss_by_row, abs=1e-4)
    assert again.forgetting is None and not again.samples


def test_two_whole_models_can_be_compared(folders: Folders, tmp_path: Path) -> None:
    make("tiny-llama", 8, tmp_path / "other")
    same = evaluate(request(dataclasses.replace(folders, tuned=folders.base)), tmp_path)
    assert same.comparisons["loss"].difference.value == 0 and same.comparisons["loss"].is_better is None
    assert all(sample.base == sample.tuned for sample in same.samples)
    assert same.forgetting is not None and same.forgetting.kl.value < 1e-5
    evaluation = evaluate(request(dataclasses.replace(folders, tuned=tmp_path / "other")), tmp_path)
    assert evaluation.comparisons["loss"].difference.value != 0


def test_models_that_cut_text_differently_are_not_compared(folders: Folders, tmp_path: Path) -> None:
    make("tiny-phi3", 8, tmp_path / "phi3")
    with pytest.raises(NotSupported, match="cut text into different tokens"):
        evaluate(request(dataclasses.replace(folders, tuned=tmp_path / "phi3")), tmp_path)


def test_a_model_whose_training_diverged_is_named_as_such(folders: Folders, tmp_path: Path) -> None:
    network, tokenizer = load_network(folders.base), load_tokenizer(folders.base)
    with torch.no_grad():
        network.get_input_embeddings().weight.fill_(float("nan"))
    network.save_pretrained(tmp_path / "diverged")
    tokenizer.save_pretrained(tmp_path / "diverged")
    divergence = dataclasses.replace(folders, tuned=tmp_path / "diverged")
    with pytest.raises(
        FailedError, match=r"tuned model gives no finite loss on 24 of 24 rows, the first one test\.jsonl, row 1"
    ):
        evaluate(request(divergence), tmp_path)


def test_only_the_metrics_that_were_asked_for_are_measured(folders: Folders, tmp_path: Path) -> None:
    config = EvaluationConfig(metrics=("loss", "rouge1"), aggregator=False)
    body = metrics_body(evaluate(request(folders, config=config, forgetting_prompts=0), tmp_path))
    assert list(body["comparisons"]) == ["loss", "rouge1"]
    assert len(body["rows"]["tuned"]["rouge1"]) == 5


def test_nothing_stays_in_the_scratch_folder(folders: Folders, tmp_path: Path) -> None:
    evaluate(request(folders, generation_rows=0), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_metrics_have_the_references_names_and_the_logged_ones_their_own(evaluation: Evaluation) -> None:
    body = json.loads(json.dumps(metrics_body(evaluation)))
    assert {"perplexity", "rouge1", "rouge2", "rougeL", "rougeLsum", "bleu_1", "bleu_4"} <= set(body)
    assert set(body["comparisons"]["loss"]["difference"]) == {"value", "low", "high"}
    values = logged_metrics(evaluation)
    assert values["eval_loss"] == values["tuned_loss"] == evaluation.comparisons["loss"].tuned.value
    assert values["loss_difference"] == pytest.approx(values["tuned_loss"] - values["base_loss"])


def test_the_page_needs_no_network_and_escapes_what_models_write(evaluation: Evaluation) -> None:
    sample = dataclasses.replace(evaluation.samples[0], tuned="<script>alert(1)</script>")
    page = report_html(
        dataclasses.replace(evaluation, samples=[sample]), {"loss_by_row.png": b"x", "forgetting.png": b"x"}
    )
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert 'src="http' not in page and "href=" not in page
    assert "The tuned model is better on the held-out rows" in page


def test_few_rows_are_warned_of(evaluation: Evaluation) -> None:
    assert warnings(evaluation) == ["Only 5 rows: bootstrap intervals of so few are too narrow. Hold out more."]
    assert "better" in table_text(evaluation) and "Forgetting on 8 general prompts" in table_text(evaluation)
