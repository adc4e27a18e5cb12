"""How the tuned model is packaged."""

from mafunzo.entities.parameters.parameter import PACKAGE_MODEL, Parameter

PACKAGE = (
    Parameter(
        "model_name",
        "string",
        "What the packaged model is called in its card; if left out, the base's name with -tuned.",
        steps=(PACKAGE_MODEL,),
        names={PACKAGE_MODEL: "name"},
        is_own=True,
    ),
)
