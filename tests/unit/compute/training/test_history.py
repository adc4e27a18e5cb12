"""Numbers over steps, by Hugging Face's names."""

from mafunzo.tracking import read_metrics
from tests.support.training_run import LORA, train


def test_metrics_have_hugging_face_s_names(tmp_path, base, prepared):
    train(tmp_path, base, prepared, **LORA)
    lines = list(read_metrics(tmp_path / "out.jsonl"))
    names = {name for line in lines for name in line}
    assert names >= {
        *("loss", "grad_norm", "learning_rate", "epoch", "num_tokens", "mean_token_accuracy"),
        *("eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second"),
        *("train_runtime", "train_samples_per_second", "train_steps_per_second", "train_loss", "total_flos"),
    }
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
