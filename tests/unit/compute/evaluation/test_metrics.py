import numpy as np
import pytest
import sacrebleu

from mafunzo.compute.evaluation.metrics import ROUGE_NAMES, metrics, reply_sums

REPLIES = ["the cat sat on the mat", "it will rain tomorrow , I think", "", "yes"]
REFERENCES = ["the cat is on the mat", "I think it will rain", "no answer", "yes"]


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_bleu_of_the_sums_is_sacrebleus_corpus_bleu(order: int) -> None:
    sums = reply_sums(REPLIES, REFERENCES, "13a", False).sum(axis=0)
    expected = sacrebleu.BLEU(max_ngram_order=order, smooth_method="none").corpus_score(REPLIES, [REFERENCES]).score
    assert metrics()[f"bleu_{order}"].value(sums) * 100 == pytest.approx(expected)


def test_smoothing_adds_one_to_every_count() -> None:
    sums = reply_sums(["a b"], ["a c"], "13a", False).sum(axis=0)
    assert metrics()["bleu_2"].value(sums) == 0
    assert metrics(is_smoothed=True)["bleu_2"].value(sums) == pytest.approx(np.sqrt((2 / 3) * (1 / 2)))


@pytest.mark.parametrize("name", ROUGE_NAMES)
@pytest.mark.parametrize("is_stemmed", [False, True])
def test_rouge_is_the_mean_of_the_rows_f_measures(name: str, is_stemmed: bool) -> None:
    from rouge_score import rouge_scorer  # loads nltk, which takes two seconds

    scorer = rouge_scorer.RougeScorer([name], use_stemmer=is_stemmed)
    pairs = zip(REPLIES, REFERENCES, strict=True)
    expected = np.mean([scorer.score(reference, reply)[name].fmeasure for reply, reference in pairs])
    sums = reply_sums(REPLIES, REFERENCES, "13a", is_stemmed).sum(axis=0)
    assert metrics()[name].value(sums) == pytest.approx(expected)


def test_loss_weighs_tokens_and_not_rows() -> None:
    sums = np.array([[10.0, 10.0, 5.0], [90.0, 30.0, 15.0]]).sum(axis=0)
    assert metrics()["loss"].value(sums) == pytest.approx(2.5)
    assert metrics()["perplexity"].value(sums) == pytest.approx(np.exp(2.5))
    assert metrics()["token_accuracy"].value(sums) == pytest.approx(0.5)


def test_an_empty_reply_scores_zero_and_not_nan() -> None:
    sums = reply_sums([""], ["something"], "13a", False).sum(axis=0)
    assert [float(m.value(sums)) for m in metrics().values() if m.source == "reply"] == [0.0] * 8
