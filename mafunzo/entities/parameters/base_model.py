"""The model that is tuned: where it comes from, and what of it may run."""

from mafunzo.entities.parameters.parameter import IMPORT_MODEL, STEPS, TRUTH, Parameter

BASE_MODEL = (
    Parameter(
        "huggingface_id",
        "string",
        "The base model's `org/name` on the hub or in a mirror; used if neither of the two paths is given.",
        steps=(IMPORT_MODEL,),
        aliases=("model_name_or_path", "base_model"),
    ),
    Parameter(
        "pytorch_model_path",
        "custom_model",
        "The base model as a Hugging Face folder, or the pytorch_model_folder of an earlier job, to tune it further; it "
        "wins over the other two.",
        steps=(IMPORT_MODEL,),
        effects={
            IMPORT_MODEL: "A Hugging Face folder, or what the finetune step wrote. It wins over the other two; if it is an "
            "adapter, another one that is given is its base."
        },
    ),
    Parameter(
        "mlflow_model_path",
        "mlflow_model",
        "The base model as an MLflow folder (the mlflow_model_folder of an earlier job) or a model of the catalogue; it "
        "wins over huggingface_id.",
        steps=(IMPORT_MODEL,),
    ),
    Parameter(
        "finetune_config_path",
        "uri_file",
        "A JSON file about the base model, as Azure ML packages with its models; its chat_template and special_tokens "
        "replace those of the model.",
        steps=(IMPORT_MODEL,),
    ),
    Parameter(
        "trust_remote_code",
        "string",
        "Whether Python code in the model's folder may run. Read it first.",
        default="false",
        enum=TRUTH,
        steps=STEPS,
    ),
    Parameter(
        "ignore_mismatched_sizes",
        "string",
        "Whether weights whose shape isn't the configuration's start at random.",
        default="false",
        enum=TRUTH,
        refused={"true": "random weights would spoil the base silently. Correct the model's config.json instead."},
    ),
    Parameter(
        "base_model_path",
        "custom_model",
        "The Hugging Face folder of the base, where the model to tune further is an adapter.",
        steps=(IMPORT_MODEL,),
        is_own=True,
    ),
    Parameter(
        "base_model_name",
        "string",
        "What the base model is called where its files don't say; the name of its folder, or of the registered model.",
        steps=(IMPORT_MODEL,),
        is_own=True,
    ),
    Parameter(
        "mirror",
        "string",
        "The folder where `org/name` of huggingface_id is found instead of on the hub.",
        steps=(IMPORT_MODEL,),
        is_own=True,
    ),
)
