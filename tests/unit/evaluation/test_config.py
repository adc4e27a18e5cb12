import json
from pathlib import Path

import pytest

from mafunzo.errors import InvalidFile, InvalidParameter
from mafunzo.evaluation.config import EvaluationConfig, read_config


def test_nothing_given_measures_everything() -> None:
    assert read_config(None, None) == EvaluationConfig()


def test_the_tutorials_own_file_is_honoured(tmp_path: Path) -> None:
    file = tmp_path / "eval-config.json"
    body = {
        "metrics": ["rouge1", "rouge2", "bleu_3", "bleu_4"],
        "aggregator": True,
        "stemmer": True,
        "smoothing": False,
    }
    file.write_text(json.dumps(body))
    config = read_config(file, None)
    assert config.metrics == ("rouge1", "rouge2", "bleu_3", "bleu_4")
    assert config.stemmer and config.aggregator and not config.smoothing


def test_a_key_of_the_params_wins_over_the_files(tmp_path: Path) -> None:
    (tmp_path / "f.json").write_text('{"batch_size": 2, "stemmer": true}')
    config = read_config(tmp_path / "f.json", '{"batch_size": 5}')
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
        read_config(None, json.dumps(params))
    assert fault in error.value.faults[0]


def test_the_originals_defaults_written_out_are_accepted() -> None:
    params = {"model_id": None, "add_start_token": True, "score_all_conversations": False, "tokenizer": None}
    assert read_config(None, json.dumps(params)) == EvaluationConfig()


def test_text_that_is_not_json_is_named() -> None:
    with pytest.raises(InvalidFile, match="evaluation_config_params is not JSON"):
        read_config(None, "{metrics: rouge1}")
    with pytest.raises(InvalidFile, match="is a list, expected an object"):
        read_config(None, "[1]")
