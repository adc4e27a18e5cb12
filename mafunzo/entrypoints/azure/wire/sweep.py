"""A sweep's own part of Azure's JSON: search space, sampling, limits, objective and early termination, and a job's trial.

A node of a pipeline, and a file, spell it otherwise than a job's PUT, with a file's keys; `sweep_section` translates.
"""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from mafunzo.entities.component import Input
from mafunzo.entities.duration import seconds_of
from mafunzo.entities.sweep import Distribution, EarlyTermination, Goal, Policy, Sampling, Sweep
from mafunzo.errors import Faults, InvalidParameter

MAX_TRIALS = 1000
"""Azure's default, and the most steps that a job may have."""
MAX_LOGARITHM = 300.0
"""The greatest whose value is a number, also for the base 10."""
ARGUMENTS: Mapping[str, tuple[str, ...]] = {
    "choice": ("values",),
    "randint": ("upper",),
    "uniform": ("min_value", "max_value"),
    "loguniform": ("min_value", "max_value"),
    "quniform": ("min_value", "max_value", "q"),
    "qloguniform": ("min_value", "max_value", "q"),
    "normal": ("mu", "sigma"),
    "lognormal": ("mu", "sigma"),
    "qnormal": ("mu", "sigma", "q"),
    "qlognormal": ("mu", "sigma", "q"),
}
KINDS = {"grid": Sampling.GRID, "random": Sampling.RANDOM, "bayesian": Sampling.BAYESIAN}
POLICIES = {
    "MedianStopping": Policy.MEDIAN,
    "Bandit": Policy.BANDIT,
    "TruncationSelection": Policy.TRUNCATION,
}
_SEARCH_SPACE = re.compile(r"\$\{\{\s*search_space\.([^{}\s]+)\s*\}\}")


def sweep_section(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a node or a file says of its sweep as a job's PUT says it."""
    policy = spec.get("early_termination")
    return {
        "searchSpace": {name: _expression(written) for name, written in (spec.get("search_space") or {}).items()},
        "samplingAlgorithm": _typed("samplingAlgorithmType", spec.get("sampling_algorithm") or "random"),
        "objective": camel_keys(spec.get("objective") or {}),
        "earlyTermination": _typed("policyType", policy) if policy else None,
        "limits": {
            camel(key): duration(value) if key.endswith("timeout") else _whole_of(value)
            for key, value in (spec.get("limits") or {}).items()
            if value is not None
        },
    }


def sweep_from_node(name: str, body: Mapping[str, Any]) -> Sweep:
    """Read the sweep that a node of a pipeline is; raises `InvalidParameter` with all faults."""
    section = {**sweep_section(body), "inputs": body.get("inputs")}
    faults = Faults(f"Node '{name}': ")
    sweep = _sweep(section, faults)
    faults.add(
        "" if body.get("trial") else "the trial is missing. Name the component that is run with each set of values."
    )
    faults.require_none(f"Node '{name}' can't be run.")
    return sweep


def sweep_from_body(name: str, properties: Mapping[str, Any]) -> Sweep:
    """Read a sweep job's settings; raises `InvalidParameter` with all faults."""
    faults = Faults()
    sweep = _sweep(properties, faults)
    faults.add(*_command_faults(properties))
    faults.require_none(f"Sweep job '{name}' can't be run.")
    return sweep


def _sweep(properties: Mapping[str, Any], faults: Faults) -> Sweep:
    space = {
        key: _distribution(key, expression, faults) for key, expression in (properties.get("searchSpace") or {}).items()
    }
    sampling, seed, log_base = _sampling(properties.get("samplingAlgorithm") or {}, faults)
    objective, limits = properties.get("objective") or {}, properties.get("limits") or {}
    max_trials = _whole("max_total_trials", limits.get("maxTotalTrials"), 1, MAX_TRIALS, MAX_TRIALS, faults)
    sweep = Sweep(
        metric=str(objective.get("primaryMetric") or ""),
        goal=_goal(objective.get("goal"), faults),
        space={key: distribution for key, distribution in space.items() if distribution},
        sampling=sampling,
        max_trials=max_trials,
        max_parallel=min(
            max_trials, _whole("max_concurrent_trials", limits.get("maxConcurrentTrials"), 1, None, max_trials, faults)
        ),
        timeout_s=_seconds("timeout", limits.get("timeout"), faults),
        early_termination=_early_termination(properties.get("earlyTermination"), faults),
        seed=seed,
        log_base=log_base,
    )
    _seconds("trial_timeout", limits.get("trialTimeout"), faults)
    faults.add(*_faults_between(sweep, properties, set(space)))
    return sweep


def trial_from_body(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return a sweep job's trial as a command job's body has it, with the parameters that are swept as inputs."""
    trial = properties.get("trial") or {}
    return {
        **trial,
        "command": _SEARCH_SPACE.sub(r"${{inputs.\1}}", str(trial.get("command") or "")),
        "inputs": properties.get("inputs") or {},
        "outputs": properties.get("outputs") or {},
        "resources": properties.get("resources") or trial.get("resources"),
        "limits": {"timeout": (properties.get("limits") or {}).get("trialTimeout")},
    }


def swept_inputs(sweep: Sweep) -> dict[str, Input]:
    """Return the inputs of a trial that are swept."""
    return {name: Input(name, _type_of(distribution)) for name, distribution in sweep.space.items()}


def _expression(written: Any) -> Any:
    """Return a swept parameter's distribution as a list: `["uniform", [0.1, 0.9]]`."""
    if not isinstance(written, Mapping):
        return written
    kind = str(written.get("type"))
    arguments = [written.get(name) for name in ARGUMENTS.get(kind, ())]
    return [kind, arguments if kind == "choice" else [number_of(one) for one in arguments]]


def _typed(name: str, spec: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy or an algorithm, which may be its type alone, with the type under `name`, in Azure's spelling."""
    fields = dict(spec) if isinstance(spec, Mapping) else {"type": spec}
    kind = str(fields.pop("type", None) or fields.pop("policy_type", None) or "")
    words = kind.split("_")
    spelled = "".join(word.capitalize() for word in words) if "_" in kind or kind.islower() else kind
    return {name: spelled, **camel_keys(fields)}


def number_of(value: Any) -> Any:
    """Return the number in a text, since YAML reads 1e-4 as text; anything else as it is."""
    number = _float(value) if isinstance(value, str) else None
    return value if number is None else number


def _whole_of(value: Any) -> Any:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


def duration(limit: Any) -> str:
    """Return a limit, which may be a number of seconds, as Azure's JSON has it."""
    return f"PT{limit}S" if str(limit).isdecimal() else str(limit)


def camel_keys(section: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's section with its keys spelled as in Azure's JSON."""
    return {camel(key): value for key, value in section.items()}


def camel(key: str) -> str:
    """Return a file's key as Azure's JSON spells it: `instanceCount`."""
    first, *rest = key.split("_")
    return first + "".join(word.capitalize() for word in rest)


def _distribution(name: str, expression: Any, faults: Faults) -> Distribution | None:
    """Return the distribution of a parameter's values: `["uniform", [0.1, 0.9]]`, `["choice", [[1, 2]]]`."""
    kind = str(expression[0]) if isinstance(expression, list) and len(expression) == 2 else ""
    if kind not in ARGUMENTS:
        faults.add(f"search space: {name} is {expression}, expected one of {', '.join(ARGUMENTS)} and its arguments.")
        return None
    arguments = expression[1] if isinstance(expression[1], list) else [expression[1]]
    if kind == "choice" and len(arguments) == 1 and isinstance(arguments[0], list):
        arguments = arguments[0]
    argument_faults = [f"search space: {name} is {kind}: {fault}" for fault in _faults_of(kind, arguments)]
    faults.add(*argument_faults)
    return None if argument_faults else Distribution(kind, tuple(arguments))


def _faults_of(kind: str, arguments: list[Any]) -> Iterator[str]:
    if kind == "choice":
        if not arguments:
            yield "it has no values, expected one or more."
        if not all(isinstance(value, str | int | float) for value in arguments):
            yield "a value isn't a text, a number, true or false. Spaces within values aren't swept here."
        return
    names = ARGUMENTS[kind]
    if len(arguments) != len(names) or not all(_is_number(value) for value in arguments):
        yield f"its arguments are {arguments}, expected the numbers {', '.join(names)}."
        return
    values = dict(zip(names, arguments, strict=True))
    if "upper" in values and (values["upper"] < 1 or values["upper"] != int(values["upper"])):
        yield f"upper is {values['upper']}, expected a whole number of 1 or more."
    if "min_value" in values and values["min_value"] > values["max_value"]:
        yield f"min_value is {values['min_value']}, more than max_value, {values['max_value']}."
    for positive in ("sigma", "q"):
        if values.get(positive, 1) <= 0:
            yield f"{positive} is {values[positive]}, expected more than 0."
    logarithm = values.get("max_value", values.get("mu", 0) + 6 * values.get("sigma", 0))
    if "log" in kind and logarithm > MAX_LOGARITHM:
        yield f"its values are logarithms, and {logarithm:g} is more than {MAX_LOGARITHM:g}."


def _sampling(algorithm: Mapping[str, Any], faults: Faults) -> tuple[Sampling, int | None, float]:
    """Return the sampling algorithm, its random seed, and the base of logarithms."""
    kind = str(algorithm.get("samplingAlgorithmType") or "Random").lower()
    rule = str(algorithm.get("rule") or "random").lower()
    seed, base = algorithm.get("seed"), algorithm.get("logbase")
    if kind not in KINDS:
        faults.add(f"sampling_algorithm is '{kind}', expected one of {', '.join(KINDS)}.")
    if rule not in ("random", "sobol"):
        faults.add(f"sampling_algorithm: rule is '{rule}', expected random or sobol.")
    if seed is not None and not (isinstance(seed, int) and 0 <= seed < 2**32):
        faults.add(f"sampling_algorithm: seed is {seed}, expected a whole number from 0 to {2**32 - 1}.")
    log_base = math.e if base in (None, "e") else _float(base)
    if log_base is None or not 1 < log_base <= 10:
        faults.add(f"sampling_algorithm: logbase is {base}, expected e, or a number above 1 and at most 10.")
    sampling = Sampling.SOBOL if (kind, rule) == ("random", "sobol") else KINDS.get(kind, Sampling.RANDOM)
    return sampling, seed, log_base or math.e


def _goal(value: Any, faults: Faults) -> Goal:
    if str(value).lower() in list(Goal):
        return Goal(str(value).lower())
    faults.add(f"objective: goal is '{value}', expected minimize or maximize.")
    return Goal.MINIMIZE


def _early_termination(policy: Mapping[str, Any] | None, faults: Faults) -> EarlyTermination | None:
    if not policy:
        return None
    where, kind = "early_termination", policy.get("policyType")
    if kind not in POLICIES:
        faults.add(f"{where}: type is '{kind}', expected one of {', '.join(POLICIES)}.")
        return None
    termination = EarlyTermination(
        policy=POLICIES[kind],
        interval=_whole(f"{where}: evaluation_interval", policy.get("evaluationInterval") or None, 1, None, 1, faults),
        delay=_whole(f"{where}: delay_evaluation", policy.get("delayEvaluation"), 0, None, 0, faults),
        slack_factor=_float(policy.get("slackFactor") or 0) or 0.0,
        slack_amount=_float(policy.get("slackAmount") or 0) or 0.0,
        percent=_float(policy.get("truncationPercentage") or 0) or 0.0,
    )
    slacks = sorted((termination.slack_factor, termination.slack_amount))  # one of them is 0
    if termination.policy is Policy.BANDIT and not (slacks[0] == 0 < slacks[1]):
        faults.add(f"{where}: a bandit policy has one of slack_factor and slack_amount, more than 0.")
    if termination.policy is Policy.TRUNCATION and not 1 <= termination.percent <= 99:
        faults.add(f"{where}: truncation_percentage is {termination.percent:g}, expected 1 to 99.")
    return termination


def _faults_between(sweep: Sweep, properties: Mapping[str, Any], parameters: set[str]) -> Iterator[str]:
    """Yield what is wrong with parts that are each right. `parameters`: the parameters of the search space, broken ones too."""
    if not sweep.metric:
        yield "objective: primary_metric is missing. Name the metric that trials log."
    if not parameters:
        yield "the search space is empty. Give one parameter or more."
    if sweep.sampling is Sampling.GRID:
        for name, distribution in sweep.space.items():
            if distribution.kind != "choice":
                yield f"search space: {name} is {distribution.kind}, but a grid is made of choices. Use choice, or random."
    for name in sorted(parameters & set(properties.get("inputs") or {})):
        yield f"{name} is both an input and in the search space. Keep one."


def _command_faults(properties: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the command of a job's trial."""
    parameters = set(properties.get("searchSpace") or {})
    command = str((properties.get("trial") or {}).get("command") or "")
    if not command:
        yield "the trial has no command. Say what to run."
    for name in sorted(set(_SEARCH_SPACE.findall(command)) - parameters):
        yield f"the command uses search_space.{name}, which the search space doesn't have."


def _whole(name: str, value: Any, least: int, most: int | None, default: int, faults: Faults) -> int:
    if value is None:
        return default
    if isinstance(value, int) and value >= least and (most is None or value <= most):
        return value
    faults.add(
        f"{name} is {value}, expected a whole number{f' from {least} to {most}' if most else f', {least} or more'}."
    )
    return default


def _seconds(name: str, value: Any, faults: Faults) -> float:
    try:
        return 0.0 if value is None else seconds_of(str(value))
    except InvalidParameter as error:
        faults.add(f"{name}: {error.message}")
        return 0.0


def _float(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _type_of(distribution: Distribution) -> str:
    """Return the type of a parameter's values."""
    if distribution.kind == "randint" or (distribution.quantum or 0.5).is_integer():
        return "integer"
    if distribution.kind != "choice":
        return "number"
    kinds = {type(value) for value in distribution.arguments}
    if kinds == {bool}:
        return "boolean"
    if kinds == {int}:
        return "integer"
    return "number" if kinds <= {int, float} else "string"
