"""Batches made ahead by threads."""

from tests.support.training_run import LORA, history, train


def test_batches_made_ahead_are_the_same_batches(tmp_path, base, prepared):
    _, here = train(tmp_path, base, prepared, "here", **LORA)
    _, ahead = train(tmp_path, base, prepared, "ahead", **LORA, dataloader_num_workers=2)
    assert history(ahead, "loss") == history(here, "loss")
