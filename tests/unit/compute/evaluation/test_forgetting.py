from pathlib import Path

import pytest
import torch

from mafunzo.compute.chat.template import render_ids
from mafunzo.compute.chat.tokenizer import load_tokenizer
from mafunzo.compute.evaluation.forgetting import RenderedReply, divergence_sums, reply_tokens_that_fit, write_base
from mafunzo.compute.evaluation.tasks import general_prompts
from mafunzo.compute.model.loading import load_network
from mafunzo.entities.conversation import Conversation, Message
from mafunzo.errors import NotSupported
from tests.support.tiny_evaluation import Folders


@pytest.fixture
def replies(folders: Folders) -> list[RenderedReply]:
    tokenizer = load_tokenizer(folders.base)
    conversations = [Conversation((Message("user", prompt.prompt),)) for prompt in general_prompts()[:9]]
    return [
        RenderedReply(render_ids(tokenizer, c, True), list(range(5, 5 + i % 4))) for i, c in enumerate(conversations)
    ]


def test_there_are_at_least_200_different_prompts_of_ten_topics() -> None:
    prompts = general_prompts()
    assert len({prompt.prompt for prompt in prompts}) == len(prompts) >= 200
    assert len({prompt.topic for prompt in prompts}) >= 10
    assert len({prompt.topic for prompt in prompts[:12]}) >= 10


@torch.inference_mode()
def test_divergence_is_that_of_the_slow_obvious_way(
    folders: Folders, replies: list[RenderedReply], tmp_path: Path
) -> None:
    base, tuned = load_network(folders.base), load_network(folders.base, folders.tuned, merge=True)
    write_base(base, replies, tmp_path / "f", lambda count: None)
    sums = divergence_sums(tuned, replies, tmp_path / "f", lambda count: None)
    for reply, (kl, positions, same) in zip(replies, sums, strict=True):
        ids = torch.tensor([reply.prompt_ids + reply.reply_ids])
        first, last = len(reply.prompt_ids) - 1, ids.shape[1]
        p = base(input_ids=ids).logits[0, first:last].float().log_softmax(-1)
        q = tuned(input_ids=ids).logits[0, first:last].float().log_softmax(-1)
        assert positions == len(reply.reply_ids) + 1
        assert kl == pytest.approx(float((p.exp() * (p - q)).sum()), rel=2e-3, abs=1e-4)
        assert same == float((p.argmax(-1) == q.argmax(-1)).sum())
    assert sums[:, 0].min() > 0.01


def test_a_model_has_not_moved_from_itself(folders: Folders, replies: list[RenderedReply], tmp_path: Path) -> None:
    network = load_network(folders.base)
    write_base(network, replies, tmp_path / "f", lambda count: None)
    sums = divergence_sums(network, replies, tmp_path / "f", lambda count: None)
    assert abs(sums[:, 0]).max() < 1e-5
    assert (sums[:, 1] == sums[:, 2]).all()


def test_another_vocabulary_is_refused(folders: Folders, replies: list[RenderedReply], tmp_path: Path) -> None:
    small, large = load_network(folders.base), load_network(folders.base)
    large.resize_token_embeddings(small.config.vocab_size + 8)
    write_base(small, replies, tmp_path / "f", lambda count: None)
    with pytest.raises(NotSupported, match="vocabulary is larger"):
        divergence_sums(large, replies, tmp_path / "f", lambda count: None)
    write_base(large, replies, tmp_path / "f", lambda count: None)
    with pytest.raises(NotSupported, match="vocabulary is smaller"):
        divergence_sums(load_network(folders.base), replies, tmp_path / "f", lambda count: None)


def test_the_file_of_distributions_stays_below_its_bound() -> None:
    assert reply_tokens_that_fit(263, 49152) == 16
    assert (reply_tokens_that_fit(263, 262144) + 1) * 263 * 262144 * 2 <= 2**30
