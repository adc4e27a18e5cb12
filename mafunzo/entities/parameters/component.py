"""The components that steps run: what each takes beside its parameters, and what it writes.

`tools/generate.py` writes `compute/components/x.yml` from the declaration of `x` here; `x.py` beside it is what it runs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from mafunzo.entities.component import Component, Input, Output
from mafunzo.entities.job import Resources
from mafunzo.entities.parameters.parameter import EVALUATE, FINETUNE, IMPORT_MODEL, PACKAGE_MODEL, PREPARE_DATA
from mafunzo.entities.parameters.score import BATCH_SCORE, SCORED_ROWS, SCORING
from mafunzo.entities.parameters.table import PARAMETERS, parameters_of

FETCHING = (IMPORT_MODEL,)
"""The components that fetch from the Hugging Face hub, with the operator's token; no other process is given it."""
PLANNING = (FINETUNE,)
"""The components that keep to a memory budget: ended for want of memory, they are started again with a smaller one."""
PREVIEW_DATA = "preview_data"
ESTIMATE = "estimate"
PREVIEWED_ROWS = Input("rows", "integer", "How many good rows are shown.", is_optional=True, default=3, minimum=1)
ALL_CORES = Resources(cpus=0)
ALL_CORES_AND_A_GPU_IF_ANY = Resources(cpus=0, gpus_if_any=1)


def _component(
    name: str,
    display_name: str,
    description: str,
    inputs: Iterable[Input],
    output: Output,
    resources: Resources = ALL_CORES,
    is_deterministic: bool = True,
) -> Component:
    declarations = {declaration.name: declaration for declaration in inputs}
    return Component(
        name=name,
        version="1",
        kind="command",
        display_name=display_name,
        description=description,
        inputs=declarations,
        outputs={output.name: output},
        command=_command(name, declarations.values(), output),
        resources=resources,
        is_deterministic=is_deterministic,
    )


def _command(name: str, inputs: Iterable[Input], output: Output) -> str:
    """Return the shell command, in which `$[[...]]` is left out unless its input was given."""
    options = [(f"--{one.name} '${{{{inputs.{one.name}}}}}'", one.is_optional) for one in inputs]
    return " ".join(
        [
            f"python -m mafunzo.compute.components.{name}",
            *(f"$[[{option}]]" if is_optional else option for option, is_optional in options),
            f"--{output.name} '${{{{outputs.{output.name}}}}}'",
        ]
    )


def _parameters(step: str) -> list[Input]:
    return [parameter.input_of(step) for parameter in parameters_of(step)]


COMPONENTS: Mapping[str, Component] = {
    component.name: component
    for component in (
        _component(
            IMPORT_MODEL,
            "Import a model",
            "Fetches the base model, checks that it is safe to load, and writes it as a plain Hugging Face folder.",
            _parameters(IMPORT_MODEL),
            Output(
                "model",
                "uri_folder",
                "A Hugging Face folder (safetensors, tokenizer, chat template) and mafunzo_model.json, which says where it "
                "comes from.",
            ),
        ),
        _component(
            PREPARE_DATA,
            "Prepare the data",
            "Checks every row, splits, renders with the model's own chat template, and marks the tokens of the assistant.",
            (
                Input(
                    "model",
                    "uri_folder",
                    "A Hugging Face folder with a tokenizer and a chat template; what import_model wrote.",
                ),
                *_parameters(PREPARE_DATA),
            ),
            Output(
                "prepared",
                "uri_folder",
                "Token ids and labels of each split as parquet, the rows as jsonl, the tokenizer, a report, a histogram of "
                "lengths and a preview.",
            ),
        ),
        _component(
            FINETUNE,
            "Fine-tune",
            "Trains a LoRA adapter or all weights of a chat model on the assistant's tokens.",
            (
                Input("model", "uri_folder", "The base model: import_model's output, or any Hugging Face folder."),
                Input("prepared", "uri_folder", "Tokenised rows with labels: prepare_data's output."),
                *_parameters(FINETUNE),
            ),
            Output(
                "pytorch_model_folder",
                "custom_model",
                "The best adapter (peft's format) or model (Hugging Face folder), with tokenizer, checkpoint-N/, "
                "trainer_state.json, all_results.json, finetune_args.json and loss.png.",
            ),
            ALL_CORES_AND_A_GPU_IF_ANY,
        ),
        _component(
            EVALUATE,
            "Evaluate",
            "Compares the tuned model with its base on the same held-out rows, with intervals, and checks what it forgot.",
            (
                Input("model", "uri_folder", "The base model: import_model's output, or any Hugging Face folder."),
                Input(
                    "tuned",
                    "custom_model",
                    "The tuned model: finetune's output (an adapter or whole weights), or any Hugging Face folder.",
                ),
                Input(
                    "prepared", "uri_folder", "Held-out rows, as text and as tokens with labels: prepare_data's output."
                ),
                *_parameters(EVALUATE),
            ),
            Output(
                "evaluation_result",
                "uri_folder",
                "evaluationResult/metrics.json, report.html, pictures, samples.jsonl, serving_reference.json.",
            ),
            ALL_CORES_AND_A_GPU_IF_ANY,
        ),
        _component(
            PACKAGE_MODEL,
            "Package the tuned model",
            "Writes the tuned model as an MLflow model folder that loads anywhere, with its card, data, metrics and licence.",
            (
                Input("model", "uri_folder", "The base model, as import_model wrote it."),
                Input("tuned", "custom_model", "What the finetune step wrote, an adapter or a whole model."),
                Input(
                    "prepared",
                    "uri_folder",
                    "What prepare_data wrote; the card tells its rows, tokens and hashes.",
                    is_optional=True,
                ),
                Input(
                    "evaluation",
                    "uri_folder",
                    "What evaluate wrote; the card tells its metrics, and serving is proven against its reference.",
                    is_optional=True,
                ),
                *_parameters(PACKAGE_MODEL),
            ),
            Output(
                "mlflow_model_folder",
                "mlflow_model",
                "An MLflow model folder; data/model is a plain Hugging Face folder, data/adapter one of peft.",
            ),
        ),
        _component(
            PREVIEW_DATA,
            "Look at the data",
            "Renders the first rows with the model's own chat template and marks what is trained; checks every row.",
            (
                Input(
                    "model",
                    "uri_folder",
                    "A Hugging Face folder with a tokenizer and a chat template; what import_model wrote.",
                ),
                replace(PARAMETERS["train_file_path"].as_input(), is_optional=False),
                PREVIEWED_ROWS,
                PARAMETERS["max_seq_length"].as_input(),
                PARAMETERS["long_rows"].as_input(),
                PARAMETERS["train_on"].as_input(),
                PARAMETERS["trust_remote_code"].as_input(),
            ),
            Output(
                "preview",
                "uri_folder",
                "preview.json (pieces of text, each with whether it is trained) and report.json (every bad row and why).",
            ),
        ),
        _component(
            ESTIMATE,
            "Estimate a training run",
            "Takes a few optimizer steps on the real rows, and says from them what the whole run takes: time, memory, disk.",
            (
                Input("model", "uri_folder", "The base model: import_model's output, or any Hugging Face folder."),
                Input("prepared", "uri_folder", "Tokenised rows with labels: prepare_data's output."),
                *_parameters(FINETUNE),
            ),
            Output("estimate", "uri_folder", "estimate.json; what was trained is thrown away."),
            ALL_CORES_AND_A_GPU_IF_ANY,
            is_deterministic=False,
        ),
        _component(
            BATCH_SCORE,
            "Answer a file of rows",
            "Answers every row of a file with a model, at full batch, and says of each row what became of it.",
            (
                Input("model", "uri_folder", "The model: import_model's output, or any Hugging Face folder."),
                SCORED_ROWS,
                *(parameter.input_of(BATCH_SCORE) for parameter in SCORING),
            ),
            Output(
                "predictions",
                "uri_folder",
                "predictions.jsonl, a line a row (its file and number, its messages, answer, finish_reason and usage, or its "
                "error), and report.json, which counts them.",
            ),
            ALL_CORES_AND_A_GPU_IF_ANY,
        ),
    )
}
"""By name, in the order in which a job runs them."""
