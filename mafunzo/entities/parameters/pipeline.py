"""The pipelines that ship: their inputs and outputs, and how their steps are bound to them and to one another.

`tools/generate.py` writes `components/*_pipeline.yml` and `compare_models.yml` from these.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from mafunzo.entities.component import COMPUTE, Component, Input, Node, Output
from mafunzo.entities.parameters.component import ALL_CORES, ESTIMATE, PREVIEW_DATA, PREVIEWED_ROWS
from mafunzo.entities.parameters.parameter import EVALUATE, FINETUNE, IMPORT_MODEL, PACKAGE_MODEL, PREPARE_DATA
from mafunzo.entities.parameters.score import BATCH_SCORE, SCORED_ROWS, SCORING
from mafunzo.entities.parameters.table import PARAMETERS, parameters_of

_SOURCES = ("huggingface_id", "pytorch_model_path", "mlflow_model_path", "base_model_path", "base_model_name", "mirror")
"""Where a model comes from: four ways to name it, what it is called, and where a repository's files lie."""
_IMPORTED = (*_SOURCES, "trust_remote_code")
_COMPARED_ROWS = ("test_file_path", "max_seq_length", "on_bad_row")
_PREVIEWED = ("train_file_path", "rows", "max_seq_length", "long_rows", "train_on", "trust_remote_code")
_COMPARISON = Output(
    "evaluation_result",
    "uri_folder",
    "Base and tuned model compared: metrics.json, report.html, pictures, samples.",
)


def _pipeline(
    name: str,
    display_name: str,
    description: str,
    inputs: Mapping[str, Input],
    outputs: Sequence[Output],
    nodes: Sequence[Node],
) -> Component:
    return Component(
        name=name,
        version="1",
        kind="pipeline",
        display_name=display_name,
        description=description,
        inputs=inputs,
        outputs={output.name: output for output in outputs},
        nodes={node.name: node for node in nodes},
        resources=ALL_CORES,
    )


def _tuning_step(
    component: str, compute: str, folders: Mapping[str, str], outputs: Sequence[str] = (), parameters_as: str = ""
) -> Node:
    """Return a step that takes all its parameters from the pipeline's inputs.

    compute: the input that says where it runs. folders: its other inputs, by the `step.output` that each is. parameters_as:
    the component whose parameters it has, if they aren't its own.
    """
    owner = parameters_as or component
    folder_bindings = {name: _step_output(*source.split(".")) for name, source in folders.items()}
    parameter_bindings = {parameter.name_in(owner): _parent_input(parameter.name) for parameter in parameters_of(owner)}
    return Node(
        component,
        component,
        folder_bindings | parameter_bindings,
        _parent_outputs(*outputs),
        bound={COMPUTE: _parent_input(compute)},
    )


def _declarations(*names: str, prefix: str = "") -> dict[str, Input]:
    return {prefix + name: replace(PARAMETERS[name].as_input(), name=prefix + name) for name in names}


def _required_declaration(name: str) -> dict[str, Input]:
    return {name: replace(PARAMETERS[name].as_input(), is_optional=False)}


def _bindings(*names: str, prefix: str = "") -> dict[str, str]:
    return {name: _parent_input(prefix + name) for name in names}


def _parent_outputs(*names: str) -> dict[str, str]:
    return {name: f"${{{{parent.outputs.{name}}}}}" for name in names}


def _parent_input(name: str) -> str:
    return f"${{{{parent.inputs.{name}}}}}"


def _step_output(step: str, output: str) -> str:
    return f"${{{{parent.jobs.{step}.outputs.{output}}}}}"


_MEASURES = tuple(parameter.name for parameter in parameters_of(EVALUATE))
_MODELS = {"model": _step_output("import_model", "model"), "tuned": _step_output("import_tuned", "model")}
_PREPARED = {"prepared": _step_output("prepare_data", "prepared")}

_ALL = (
    _pipeline(
        "chat_completion_pipeline",
        "Chat completion",
        "Fine-tunes a chat model on conversations, compares it with its base and packages it for serving.",
        _declarations(*PARAMETERS),
        (
            Output(
                "pytorch_model_folder",
                "uri_folder",
                "The best model or adapter, its tokenizer, checkpoints, history and loss curve.",
            ),
            Output("mlflow_model_folder", "mlflow_model", "The tuned model as MLflow loads it, with its card."),
            _COMPARISON,
        ),
        (
            _tuning_step(IMPORT_MODEL, "compute_model_import", {}),
            _tuning_step(PREPARE_DATA, "compute_preprocess", {"model": "import_model.model"}),
            _tuning_step(
                FINETUNE,
                "compute_finetune",
                {"model": "import_model.model", "prepared": "prepare_data.prepared"},
                ("pytorch_model_folder",),
            ),
            _tuning_step(
                EVALUATE,
                "compute_model_evaluation",
                {
                    "model": "import_model.model",
                    "tuned": "finetune.pytorch_model_folder",
                    "prepared": "prepare_data.prepared",
                },
                ("evaluation_result",),
            ),
            _tuning_step(
                PACKAGE_MODEL,
                "compute_finetune",
                {
                    "model": "import_model.model",
                    "tuned": "finetune.pytorch_model_folder",
                    "prepared": "prepare_data.prepared",
                    "evaluation": "evaluate.evaluation_result",
                },
                ("mlflow_model_folder",),
            ),
        ),
    ),
    _pipeline(
        "compare_models",
        "Compare two models",
        "Evaluates two models on the same held-out conversations, with paired differences and their intervals.",
        _declarations(*_SOURCES)
        | _declarations(*_SOURCES, prefix="tuned_")
        | _declarations(*_COMPARED_ROWS, *_MEASURES)
        | _required_declaration("test_file_path"),
        (_COMPARISON,),
        (
            Node("import_model", IMPORT_MODEL, _bindings(*_SOURCES)),
            Node("import_tuned", IMPORT_MODEL, _bindings(*_SOURCES, prefix="tuned_")),
            Node("prepare_data", PREPARE_DATA, {"model": _MODELS["model"]} | _bindings(*_COMPARED_ROWS)),
            Node(
                "evaluate",
                EVALUATE,
                _MODELS | _PREPARED | _bindings(*_MEASURES),
                _parent_outputs("evaluation_result"),
            ),
        ),
    ),
    _pipeline(
        "import_model_pipeline",
        "Import a model",
        "Fetches a base model and converts it once to a plain Hugging Face folder, which later jobs take from the cache.",
        _declarations(*_IMPORTED),
        (Output("model", "uri_folder", "A plain Hugging Face folder."),),
        (Node("import_model", IMPORT_MODEL, _bindings(*_IMPORTED), _parent_outputs("model")),),
    ),
    _pipeline(
        "preview_data_pipeline",
        "Look at the data",
        "Renders the first rows of a file with a model's own chat template and marks what is trained; checks every row.",
        _declarations(*_SOURCES)
        | _required_declaration("train_file_path")
        | {"rows": PREVIEWED_ROWS}
        | _declarations("max_seq_length", "long_rows", "train_on", "trust_remote_code"),
        (Output("preview", "uri_folder", "preview.json and report.json."),),
        (
            Node("import_model", IMPORT_MODEL, _bindings(*_IMPORTED)),
            Node(
                "preview_data",
                PREVIEW_DATA,
                {"model": _step_output("import_model", "model")} | _bindings(*_PREVIEWED),
                _parent_outputs("preview"),
            ),
        ),
    ),
    _pipeline(
        "estimate_pipeline",
        "Estimate a fine-tuning job",
        "Prepares model and rows as a fine-tuning job does, takes a few of its steps, and says what the whole run takes. Its "
        "inputs are that job's, whose later steps read some of them.",
        _declarations(*PARAMETERS),
        (Output("estimate", "uri_folder", "estimate.json."),),
        (
            _tuning_step(IMPORT_MODEL, "compute_model_import", {}),
            _tuning_step(PREPARE_DATA, "compute_preprocess", {"model": "import_model.model"}),
            _tuning_step(
                ESTIMATE,
                "compute_finetune",
                {"model": "import_model.model", "prepared": "prepare_data.prepared"},
                ("estimate",),
                parameters_as=FINETUNE,
            ),
        ),
    ),
    _pipeline(
        "batch_score_pipeline",
        "Answer a file of rows",
        "Answers every row of a file with a model, at full batch, and says of each row what became of it.",
        _declarations(*_IMPORTED)
        | {SCORED_ROWS.name: SCORED_ROWS}
        | {parameter.name: parameter.as_input() for parameter in SCORING},
        (Output("predictions", "uri_folder", "predictions.jsonl and report.json."),),
        (
            Node("import_model", IMPORT_MODEL, _bindings(*_IMPORTED)),
            Node(
                "batch_score",
                BATCH_SCORE,
                {"model": _step_output("import_model", "model")}
                | _bindings(SCORED_ROWS.name, *(parameter.name for parameter in SCORING)),
                _parent_outputs("predictions"),
            ),
        ),
    ),
)

PIPELINES: Mapping[str, Component] = {pipeline.name: pipeline for pipeline in _ALL}
