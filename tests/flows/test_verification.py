"""Workers with a tiny real network: a good package goes live, and each way of spoiling it is refused and named.

What the workers are held against is computed by plain transformers and peft.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from starlette.testclient import TestClient

from mafunzo.compute.components.tiny_model import make
from mafunzo.compute.inference import loading
from mafunzo.compute.inference.http.app import make_app
from mafunzo.compute.inference.http.service import Service
from mafunzo.compute.inference.loading import load_model
from mafunzo.compute.model.loading import load_network
from mafunzo.control.serving.decide import Verdict
from mafunzo.control.serving.reference import how_stored, read_reference
from mafunzo.control.serving.supervisor import WORKER
from mafunzo.control.serving.verification import verify
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Endpoint
from tests.support.serving_bench import Bench
from tests.support.tiny_packages import Packages, make_packages
from tests.support.waiting import LIMIT_S

Spoil = Callable[[Path], None]


def edit_json(file: str, **changes: Any) -> Spoil:
    def spoil(folder: Path) -> None:
        [path] = folder.glob(f"data/*/{file}")
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return spoil


def edit_template(old: str, new: str) -> Spoil:
    def spoil(folder: Path) -> None:
        [path] = folder.glob("data/*/chat_template.jinja")
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return spoil


def set_token(kind: str, token: str) -> Spoil:
    """Change a special token in the tokenizer's configuration."""
    return edit_json("tokenizer_config.json", **{kind: token})


def edit_adapter(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Spoil:
    def spoil(folder: Path) -> None:
        path = folder / "data" / "adapter" / "adapter_model.safetensors"
        save_file(change(load_file(path)), path, metadata={"format": "pt"})

    return spoil


def drop_adapter(folder: Path) -> None:
    (folder / "data" / "adapter" / "adapter_model.safetensors").unlink()


def merge_times(times: int) -> Callable[[Packages], Spoil]:
    """Write weights into which the adapter was merged so many times."""

    def of(packages: Packages) -> Spoil:
        def spoil(folder: Path) -> None:
            network = load_network(packages.base)
            for _ in range(times):
                network.save_pretrained(folder / "data" / "again")
                network = load_network(folder / "data" / "again", packages.tuned, merge=True)
            network.save_pretrained(folder / "data" / "again")
            shutil.move(
                folder / "data" / "again" / "model.safetensors", folder / "data" / "model" / "model.safetensors"
            )
            shutil.rmtree(folder / "data" / "again")

        return spoil

    return of


def zero_b(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor * 0 if "lora_B" in name else tensor for name, tensor in tensors.items()}


def first_layer_only(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in tensors.items() if ".layers.0." in name}


def always(spoil: Spoil) -> Callable[[Packages], Spoil]:
    return lambda _: spoil


@dataclass(frozen=True)
class Case:
    """A spoiled package. names: what the first fault begins with; says: what some fault contains."""

    kind: str
    names: str
    says: str
    spoil: Callable[[Packages], Spoil] | None = None
    recipe: str = "tiny-llama"
    has_other_base: bool = False

    def write(self, packages: dict[str, Packages], folder: Path) -> Path:
        """Write the package into a folder, and return that."""
        good = packages[self.recipe]
        shutil.copytree(good.merged if self.kind == "merged" else good.adapter, folder)
        if self.spoil is not None:
            self.spoil(good)(folder)
        return folder


CASES = {
    "template": Case(
        "merged", "template", "conversation: the token ids differ", always(edit_template("| trim", "| upper"))
    ),
    "generation-prompt": Case(
        "merged",
        "template",
        "prompt: the token ids differ",
        always(edit_template("{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}", "{{- 'assistant: ' }}")),
    ),
    "broken-template": Case(
        "merged", "template", "answers /tokenize with", always(edit_template("| trim", "| nonsense"))
    ),
    "end-of-turn": Case(
        "merged",
        "EOS",
        "a turn ends with '<|end_of_text|>'",
        always(edit_template("'<|eot_id|>' }}\n{%- endfor", "'<|end_of_text|>' }}\n{%- endfor")),
    ),
    "eos-in-generation-config": Case(
        "merged", "EOS", "'<|end_of_text|>'", always(edit_json("generation_config.json", eos_token_id=405))
    ),
    "eos-in-tokenizer": Case(
        "merged", "EOS", "a turn ends with '<s>'", always(set_token("eos_token", "<s>")), recipe="tiny-phi3"
    ),
    "bos-in-tokenizer": Case(
        "merged", "BOS", "the first token is '<|end_of_text|>'", always(set_token("bos_token", "<|end_of_text|>"))
    ),
    "bos-left-out": Case("merged", "BOS", "leaves out the first token", always(edit_template("{{- bos_token }}", ""))),
    "bos-doubled": Case(
        "merged",
        "BOS",
        "before the first token",
        always(edit_template("{{- bos_token }}", "{{- bos_token + bos_token }}")),
    ),
    "not-merged": Case("merged", "merge", "answers as the base", merge_times(0)),
    "merged-twice": Case("merged", "merge", "in evaluation", merge_times(2)),
    "adapter-missing": Case("adapter", "adapter", "adapter_model.safetensors is missing", always(drop_adapter)),
    "adapter-zeroed": Case("adapter", "adapter", "answers as the base", always(edit_adapter(zero_b))),
    "adapter-half": Case("adapter", "adapter", "which is", always(edit_adapter(first_layer_only))),
    "adapter-scaled": Case(
        "adapter",
        "adapter",
        "in evaluation",
        always(edit_json("adapter_config.json", lora_alpha=16)),
    ),
    "other-base": Case("adapter", "adapter", "would stand on another base", has_other_base=True),
}
GOOD = {
    "good-merged": Case("merged", "", ""),
    "good-adapter": Case("adapter", "", ""),
    "good-phi3": Case("merged", "", "", recipe="tiny-phi3"),
}


DEPLOYED = ("good-merged", "good-adapter", "template", "adapter-missing", "other-base")
"""Deployed with the supervisor, its processes and its checks before there is one; the others are asked in this process."""


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Packages]:
    """The good packages of each recipe."""
    root = tmp_path_factory.mktemp("packages")
    return {recipe: make_packages(root / recipe, recipe) for recipe in ("tiny-llama", "tiny-phi3")}


@pytest.fixture(scope="module")
def deployed(
    packages: dict[str, Packages], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Deployment]]:
    """The cases that are deployed, side by side, as they have settled."""
    root = tmp_path_factory.mktemp("verification")
    bench = Bench(root)
    bench.new_supervisor(memory_mb=10**6).worker = (*WORKER, "--threads", "1")
    make("tiny-llama", 7, other := root / "other")
    bench.records.endpoints.add(Endpoint("chat"), keys=("key-1", "key-2"))
    for name in DEPLOYED:
        case = (GOOD | CASES)[name]
        base = other if case.has_other_base else packages[case.recipe].base
        base_artifact = bench.artifacts.put(base) if case.kind == "adapter" else None
        artifact = bench.artifacts.put(case.write(packages, root / "cases" / name))
        bench.deploy(artifact, name=name, initial_delay_s=LIMIT_S, base_artifact=base_artifact)
    bench.tick_until(lambda: all(deployment.status.is_settled for deployment in bench.records.deployments.list()))
    yield {deployment.name: deployment for deployment in bench.records.deployments.list()}
    bench.close()


@pytest.fixture
def verdict(packages: dict[str, Packages], tmp_path: Path) -> Iterator[Callable[[str], Verdict]]:
    """Return a function that asks the application of a worker, in this process, as the supervisor asks the process."""
    service = Service("chat")

    def verdict(name: str) -> Verdict:
        case = (GOOD | CASES)[name]
        folder = case.write(packages, tmp_path / "case")
        service.model = load_model(folder, packages[case.recipe].base if case.kind == "adapter" else None)
        reference = read_reference(folder)
        assert reference is not None
        return verify("http://worker", reference, how_stored(folder), TestClient(make_app(service), "http://worker"))

    yield verdict
    if service.model is not None:
        service.model.engine.close()


def check_good(record: Mapping[str, Any] | None) -> None:
    assert record is not None
    assert record["result"] == "verified"
    assert record["is_told_from_base"], "the comparison can tell the tuned model from its base"
    assert record["tuning_share"] == pytest.approx(1.0, abs=0.01)
    assert record["largest_difference"] < record["tolerance"]
    assert record["rows"] == record["exact_rows"] == 3
    assert record["greedy_equal"] == record["greedy_positions"] > 0


def check_refused(faults: Sequence[str], case: Case) -> None:
    assert faults[0].startswith(f"{case.names}: "), faults
    assert any(case.says in fault for fault in faults), faults
    assert {fault.partition(":")[0] for fault in faults} == {case.names}, f"only what was spoiled is named: {faults}"


@pytest.mark.parametrize("name", [name for name in GOOD if name in DEPLOYED])
def test_a_good_package_goes_live_proven(deployed: dict[str, Deployment], name: str) -> None:
    assert deployed[name].status is DeploymentStatus.HEALTHY, deployed[name].error
    check_good(deployed[name].verification)


@pytest.mark.parametrize("name", [name for name in CASES if name in DEPLOYED])
def test_a_spoiled_package_is_refused_and_what_differs_is_named(deployed: dict[str, Deployment], name: str) -> None:
    deployment = deployed[name]
    assert deployment.status is DeploymentStatus.REFUSED, (deployment.status, deployment.error, deployment.verification)
    assert deployment.error is not None
    assert deployment.error["code"] == "serving_mismatch"
    check_refused(deployment.error["faults"], CASES[name])
    assert deployment.port is None


@pytest.mark.parametrize("name", [name for name in GOOD if name not in DEPLOYED])
def test_a_good_package_is_proven(verdict: Callable[[str], Verdict], name: str) -> None:
    proof = verdict(name)
    assert (proof.faults, proof.broke) == ((), "")
    check_good(proof.record)


@pytest.mark.parametrize("name", ["good-merged", "good-adapter"])
def test_a_worker_in_a_lower_precision_is_proven_and_states_its_cost(
    verdict: Callable[[str], Verdict], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "serving_dtype", lambda folder, device: torch.bfloat16)
    proof = verdict(name)
    assert (proof.faults, proof.broke) == ((), "")
    assert proof.record is not None
    check_good(proof.record)
    assert (proof.record["worker_dtype"], proof.record["dtype"]) == ("bfloat16", "float32")
    assert proof.record["largest_difference"] > 1e-4, "rounding to bfloat16 shows"
    assert proof.record["perplexity_ratio"] == pytest.approx(math.exp(-proof.record["signed_mean_difference"]))
    assert proof.record["perplexity_ratio"] == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("name", [name for name in CASES if name not in DEPLOYED])
def test_each_way_of_spoiling_a_package_is_told_from_the_others(verdict: Callable[[str], Verdict], name: str) -> None:
    proof = verdict(name)
    assert proof.record is not None and proof.record["result"] == "refused"
    check_refused(proof.faults, CASES[name])
