"""The proof made again over real workers: a merged model in OpenVINO's runtime, and adapters of one base in torch."""

import json
from pathlib import Path
from typing import Any

import pytest

from mafunzo import Workspace
from mafunzo.control.serving.worker_folder import adapter_folder_of
from mafunzo.entities.adapter import AdapterStatus
from mafunzo.entities.verification import Proof
from tests.support.tiny_packages import make_packages, package, tune
from tests.support.waiting import LIMIT_S, until

pytestmark = pytest.mark.slow


def spoil(workspace: Workspace, adapter: str) -> None:
    """Have a worker's copy of an adapter's package say that another adapter was evaluated."""
    worker = workspace.deployments.get("chat", "many")
    file = adapter_folder_of(workspace.home, worker, worker.adapters[adapter].artifact) / "serving_reference.json"
    body: dict[str, Any] = json.loads(file.read_text())
    for row in body["rows"]:
        row["logprobs"] = row["base_logprobs"]
    file.unlink()  # the store's own file is linked here
    file.write_text(json.dumps(body))


def results(proofs: list[Proof]) -> dict[tuple[str, str | None], str]:
    return {(proof.deployment, proof.adapter): str(proof.result) for proof in proofs}


def test_each_model_adapter_and_engine_has_its_row_and_one_that_differs_hides_no_other(tmp_path: Path) -> None:
    packages = make_packages(tmp_path / "packages", "tiny-llama")
    tune(packages.base, tmp_path / "other", seed=2, std=0.3)
    other = package(tmp_path / "packages-of-other", packages.base, tmp_path / "other", is_merged=False)
    folders = {"base": packages.base, "merged": packages.merged, "red": packages.adapter, "blue": other}
    with Workspace(tmp_path / "home", port=0) as workspace:
        for name, folder in folders.items():
            workspace.models.register(folder, name=name)
        try:
            handle = workspace.deploy(
                "merged", endpoint="chat", deployment="merged", engine="openvino", timeout_s=LIMIT_S
            )
            workspace.deploy("base", endpoint="chat", deployment="many", engine="torch")
            for name in ("red", "blue"):
                workspace.adapters.add("chat", name, name, deployment="many", timeout_s=LIMIT_S)

            spoil(workspace, "blue")
            told = handle.verify()
            assert results(told) == {
                ("many", None): "unverified",
                ("many", "blue"): "refused",
                ("many", "red"): "verified",
                ("merged", None): "verified",
            }
            verified = [proof for proof in told if proof.result == "verified"]
            assert [(proof.stored, proof.engine) for proof in verified] == [("adapter", "torch"), ("merge", "openvino")]
            for proof in verified:
                assert (proof.dtype, proof.reference_dtype) == ("float32", "float32")
                assert (proof.rows, proof.exact_rows) == (3, 3)
                assert proof.largest_difference is not None and proof.largest_difference < 1e-3
                assert proof.greedy_positions and proof.greedy_equal == proof.greedy_positions
                assert proof.perplexity_ratio is None

            def blue() -> AdapterStatus:
                return workspace.deployments.get("chat", "many").adapter_status("blue")

            until(lambda: blue() is AdapterStatus.LIVE)
            assert results(handle.proofs())["many", "blue"] == "verified", "from the store, it is what was evaluated"
            assert all(proof.has_passed for proof in handle.verify())
        finally:
            workspace.down()
