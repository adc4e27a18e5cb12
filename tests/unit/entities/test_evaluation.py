import json

import pytest

from mafunzo.compute.evaluation.metrics import metrics
from mafunzo.entities.evaluation import EvaluationConfig, evaluation_config, too_few, unmeasured
from mafunzo.entities.metric_name import LIKELIHOOD_METRICS, METRIC_NAMES
from mafunzo.entities.parameters.table import DEFAULTS, PARAMETERS
from mafunzo.errors import InvalidFile, InvalidParameter


def read(params: str) -> EvaluationConfig:
    return evaluation_config({"evaluation_config_params": params})


def test_every_metric_that_may_be_named_is_measured() -> None:
    assert tuple(metrics()) == METRIC_NAMES


def test_the_metrics_that_need_no_reply_are_those_of_the_likelihood() -> None:
    assert tuple(m.name for m in metrics().values() if m.source == "likelihood") == LIKELIHOOD_METRICS


def test_a_gate_may_look_at_every_metric() -> None:
    assert PARAMETERS["gate_metric"].enum == METRIC_NAMES


def test_nothing_given_measures_everything() -> None:
    assert evaluation_config({}) == EvaluationConfig()


def test_the_tutorials_own_file_is_honoured() -> None:
    body = {
        "metrics": ["rouge1", "rouge2", "bleu_3", "bleu_4"],
        "aggregator": True,
        "stemmer": True,
        "smoothing": False,
    }
    config = evaluation_config({"evaluation_config": json.dumps(body)})
    assert config.metrics == ("rouge1", "rouge2", "bleu_3", "bleu_4")
    assert config.stemmer and config.aggregator and not config.smoothing


def test_a_key_of_the_params_wins_over_the_files() -> None:
    texts = {"evaluation_config": '{"batch_size": 2, "stemmer": true}', "evaluation_config_params": '{"batch_size": 5}'}
    config = evaluation_config(texts)
    assert (config.batch_size, config.stemmer) == (5, True)


@pytest.mark.parametrize(
    ("params", "fault"),
    [
        pytest.param({"metrics": ["rouge3"]}, "rouge3 is not a parameter. Did you mean rouge", id="unknown metric"),
        pytest.param({"metrics": []}, "expected a list of names", id="no metric"),
        pytest.param({"metrics": ["gpt_groundedness"]}, "as a judge", id="judged metric"),
        pytest.param({"smoothing": "yes"}, "smoothing is 'yes', expected true or false", id="not a truth"),
        pytest.param({"tokenizer": "spacy"}, "expected one of 13a, intl", id="unknown tokenizer"),
        pytest.param({"batch_size": 0}, "batch_size is 0, expected a whole number, 1 or more", id="no batch"),
        pytest.param({"model_id": "gpt2"}, "never with another", id="perplexity of another model"),
        pytest.param({"add_start_token": False}, "the chat template decides", id="start token"),
        pytest.param({"score_all_conversations": True}, "last assistant turn only", id="all turns"),
        pytest.param({"use_previous_conversation": True}, "own earlier turns", id="previous turns"),
        pytest.param({"openai_config_params": {}}, "aren't supported", id="judge's parameters"),
        pytest.param({"stemer": True}, "stemer is not a parameter. Did you mean stemmer?", id="typo"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(params: dict[str, object], fault: str) -> None:
    with pytest.raises(InvalidParameter) as error:
        read(json.dumps(params))
    assert fault in error.value.faults[0]


def test_the_originals_defaults_written_out_are_accepted() -> None:
    params = {"model_id": None, "add_start_token": True, "score_all_conversations": False, "tokenizer": None}
    assert read(json.dumps(params)) == EvaluationConfig()


def test_text_that_is_not_json_is_named() -> None:
    with pytest.raises(InvalidFile, match="evaluation_config_params is not JSON"):
        read("{metrics: rouge1}")
    with pytest.raises(InvalidFile, match="is a list, expected an object"):
        read("[1]")


def test_a_gate_must_look_at_something_that_is_measured() -> None:
    only_loss, only_rouge = EvaluationConfig(metrics=("loss",)), EvaluationConfig(metrics=("rouge1",))
    assert "leave out" in unmeasured(only_loss, 50, "better", "rougeL")[0]
    assert "needs replies" in unmeasured(EvaluationConfig(), 0, "better", "rougeL")[0]
    assert "Every metric" in unmeasured(only_rouge, 0, "none", "loss")[0]
    assert unmeasured(only_loss, 50, "none", "rougeL") == []


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        pytest.param({}, [], id="all rows, however many"),
        pytest.param({"gate": "none", "max_evaluation_rows": 1, "generation_rows": 1}, [], id="no gate"),
        pytest.param({"max_evaluation_rows": 20}, [], id="just enough"),
        pytest.param({"max_evaluation_rows": 19}, ["max_evaluation_rows is 19"], id="too few rows"),
        pytest.param({"generation_rows": 1}, [], id="too few replies, which the gate doesn't look at"),
        pytest.param({"gate_metric": "rougeL", "generation_rows": 19}, ["generation_rows is 19"], id="too few replies"),
        pytest.param({"gate_max_kl": 0.5, "forgetting_prompts": 0}, ["forgetting_prompts is 0"], id="no prompts"),
        pytest.param(
            {"gate_max_kl": 0.5, "forgetting_prompts": 2, "max_evaluation_rows": 0},
            ["max_evaluation_rows is 0", "forgetting_prompts is 2"],
            id="both",
        ),
    ],
)
def test_a_gate_that_can_not_pass_is_refused_before_anything_runs(
    changes: dict[str, object], faults: list[str]
) -> None:
    told = too_few({**DEFAULTS, "gate": "better", **changes})
    assert [fault.partition(" while ")[0] for fault in told] == faults
