"""The report's files and sentences: what a reader is told, and of what a reader is warned."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo.compute.evaluation.compare import Estimate
from mafunzo.compute.evaluation.report import (
    decisive,
    logged_metrics,
    metrics_body,
    report_html,
    sample_bodies,
    table_text,
    verdict,
    warnings,
    write_report,
)
from tests.support.made_evaluation import FORGETTING, LOSS, SAMPLE, made_evaluation

BLEU = replace(LOSS, name="bleu_1", title="BLEU-1", is_higher_better=True, is_better=None)


@pytest.mark.parametrize(
    ("comparison", "sentence"),
    [
        pytest.param(
            LOSS, "The tuned model is better on the held-out rows: loss went from 3.000 to 2.500", id="better"
        ),
        pytest.param(replace(LOSS, is_better=False), "The tuned model is worse on the held-out rows: loss", id="worse"),
        pytest.param(
            replace(LOSS, is_better=None),
            "No difference is shown on the held-out rows: loss went from 3.000 to 2.500 (95% interval of the difference, "
            "-0.600 to -0.400, holds zero).",
            id="not shown",
        ),
        pytest.param(BLEU, "No difference is shown on the held-out rows: bleu-1 went", id="another metric"),
    ],
)
def test_the_verdict_is_one_sentence(comparison, sentence):
    name = "BLEU-1" if comparison is BLEU else "loss"
    assert verdict(made_evaluation(comparison)).startswith(sentence.replace("bleu-1", name))


def test_loss_decides_wherever_it_was_measured():
    assert decisive(made_evaluation(BLEU, LOSS)) is LOSS
    assert decisive(made_evaluation(BLEU)) is BLEU


def test_few_rows_and_prompts_without_room_are_warned_of():
    few = made_evaluation(replace(LOSS, rows=5), facts={"data": {"unusable_prompts": 2}})
    assert warnings(few) == [
        "Only 5 rows: bootstrap intervals of so few are too narrow. Hold out more.",
        "2 prompts leave no room for a reply in the model's context and were left out of the replies.",
    ]
    assert warnings(made_evaluation()) == []


def test_large_numbers_have_fewer_digits():
    perplexity = replace(
        LOSS, name="perplexity", title="Perplexity", base=Estimate(20.125, 18, 22), tuned=Estimate(9.5, 9, 10)
    )
    line = table_text(made_evaluation(perplexity)).splitlines()[1].split()
    assert line[:4] == ["Perplexity", "20.12", "9.500", "-0.500"]


def test_the_table_ends_with_forgetting_the_verdict_and_the_warnings():
    lines = table_text(made_evaluation(replace(LOSS, rows=5), forgetting=FORGETTING)).splitlines()
    assert lines[-3] == (
        "Forgetting on 8 general prompts: KL(base || tuned) 0.250 (0.200 to 0.300) nats a token; the same most probable "
        "token at 90.0% of 100 positions"
    )
    assert lines[-2].startswith("No verdict: loss went from") and lines[-1].startswith("Only 5 rows")


def test_few_rows_give_no_verdict_and_no_interval():
    """One row's interval would be a point, which excludes zero always."""
    one = made_evaluation(replace(LOSS, rows=1, difference=Estimate(-0.551, -0.551, -0.551)))
    assert verdict(one) == (
        "No verdict: loss went from 3.000 to 2.500, on 1 row only, and from 20 on an interval tells whether that is chance."
    )
    line = table_text(one).splitlines()[1]
    assert line.split()[-4:] == ["-0.551", "too", "few", "rows"]
    assert "-0.551 to" not in table_text(one)
    page = report_html(one, {"loss_by_row.png": b""})
    assert "-0.551 to" not in page and "too few rows" in page and 'class="hero unknown"' in page
    assert verdict(made_evaluation(replace(LOSS, rows=20))).startswith("The tuned model is better")


def test_metrics_have_azure_s_names_at_the_top_and_both_models_below():
    body = json.loads(json.dumps(metrics_body(made_evaluation(forgetting=FORGETTING))))
    assert body["loss"] == 2.5 and body["comparisons"]["loss"]["base"]["value"] == 3.0
    assert body["forgetting"]["prompts"] == 8 and "KL(base || tuned)" in body["forgetting"]["measured"]
    assert body["data"]["rows"] == 40 and "rows" not in body
    logged = logged_metrics(made_evaluation(LOSS, BLEU, forgetting=FORGETTING))
    assert (logged["eval_loss"], logged["base_loss"], logged["loss_difference_high"]) == (2.5, 3.0, -0.4)
    assert (logged["bleu_1"], logged["kl"], logged["same_top_token"]) == (2.5, 0.25, 0.9)


def test_a_sample_is_a_line_with_all_three_replies():
    [line] = sample_bodies(made_evaluation())
    assert line["messages"] == [{"role": "user", "content": "Hi"}]
    assert (line["reference"], line["base"], line["tuned"], line["row"]) == ("Hello!", "Hey", "Hello", 3)


def test_the_page_names_what_it_leaves_out_and_escapes_what_models_write():
    samples = [replace(SAMPLE, tuned="<script>alert(1)</script>")] * 13
    page = report_html(
        made_evaluation(samples=samples, forgetting=FORGETTING), {"loss_by_row.png": b"x", "forgetting.png": b"x"}
    )
    assert "<script>" not in page and page.count("&lt;script&gt;") == 12
    assert 'src="http' not in page and "href=" not in page and "a, b" in page


def test_every_file_of_the_report_is_written(tmp_path: Path):
    write_report(made_evaluation(forgetting=FORGETTING), tmp_path)
    files = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert files == {
        *("evaluationResult/metrics.json", "samples.jsonl", "report.html"),
        *("loss_by_row.png", "metrics.png", "forgetting.png"),
    }
