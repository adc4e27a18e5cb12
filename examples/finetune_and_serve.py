"""Fine-tune a model, register it, serve it, ask it, delete the endpoint: the Python API from beginning to end.

python examples/finetune_and_serve.py [MODEL]
"""

import sys
from pathlib import Path

from mafunzo import Workspace

HERE = Path(__file__).parent


def main(base: str = "SmolLM2-135M-Instruct") -> None:
    """Tell the whole story with `base`."""
    with Workspace() as workspace:
        job = workspace.finetune(
            model=base,
            train=HERE / "conversations.jsonl",
            apply_lora=True,
            num_train_epochs=1,
            learning_rate=2e-4,
            max_seq_length=256,
        )
        job.stream()
        model = workspace.models.register(job, name="greeter")
        endpoint = workspace.deploy(model, endpoint="greeter")
        print(endpoint.chat([{"role": "user", "content": "Habari! I am Amina. How are you?"}], max_tokens=40))
        for piece in endpoint.stream([{"role": "user", "content": "What should I eat in Kisumu?"}], max_tokens=40):
            print(piece, end="", flush=True)
        print()
        endpoint.delete()


if __name__ == "__main__":
    main(*sys.argv[1:])
