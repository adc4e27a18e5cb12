"""Tests of `mafunzo.compute.training.proof`: what was proven of a network isn't proven again, and is of nothing else."""

import json

import pytest
import torch

from mafunzo.compute.model.folder import write_facts
from mafunzo.compute.model.loading import load_network
from mafunzo.compute.training import attention, network, proof
from mafunzo.compute.training.network import attention_for, prepare
from mafunzo.compute.training.proof import Place, Proof
from tests.support.tiny_training import write_base

CPU = torch.device("cpu")


def loaded(base, dtype=torch.float32):
    return load_network(base, dtype=dtype, attention=attention_for(CPU))


@pytest.fixture
def base(tmp_path):
    folder = write_base(tmp_path / "base")
    write_facts(folder, {"weights_sha256": "1" * 64})
    return folder


@pytest.mark.parametrize("reason", ["", "it can't"])
def test_what_was_proven_is_not_proven_again_and_is_used_alike(tmp_path, base, monkeypatch, reason):
    monkeypatch.setattr(network, "_reason_not_to_pack", lambda _: reason)
    model = loaded(base)
    first = prepare(model, Place.of(tmp_path / "proofs", base, model))
    monkeypatch.setattr(network, "_prove", lambda _: pytest.fail("it was proven again"))
    again = loaded(base)
    second = prepare(again, Place.of(tmp_path / "proofs", base, again))
    assert (second.packs, second.longest_packed) == (first.packs, first.longest_packed) == (not reason, 0)
    assert second.head is not None and second.head.weight_VH is again.get_output_embeddings().weight
    expected = attention.PACKED if not reason else "sdpa"
    assert again.config._attn_implementation == model.config._attn_implementation == expected


def test_a_real_proof_holds_for_the_next_run(tmp_path, base):
    model = loaded(base)
    place = Place.of(tmp_path / "proofs", base, model)
    assert prepare(model, place).packs and place.read() == Proof("", True)


def test_other_weights_a_dtype_a_configuration_or_code_have_proofs_of_their_own(tmp_path, base, monkeypatch):
    places = [Place.of(tmp_path, base, loaded(base)), Place.of(tmp_path, base, loaded(base, torch.bfloat16))]
    configured = loaded(base)
    configured.config.rope_parameters = {"rope_theta": 1.0, "rope_type": "default"}
    places.append(Place.of(tmp_path, base, configured))
    write_facts(base, {"weights_sha256": "2" * 64})
    places.append(Place.of(tmp_path, base, loaded(base)))
    monkeypatch.setattr(proof, "code_sha256", lambda: "other")
    places.append(Place.of(tmp_path, base, loaded(base)))
    assert len({place.file for place in places}) == 5
    assert places[-1] == Place.of(tmp_path, base, loaded(base))


def test_weights_without_a_hash_and_foreign_code_are_proven_each_time(tmp_path, base):
    model = loaded(base)
    assert Place.of(None, base, model) is None
    foreign = type("Foreign", (type(model),), {"__module__": "transformers_modules.own"})
    model.__class__ = foreign
    assert Place.of(tmp_path, base, model) is None
    write_facts(base, {"name": "a model"})
    assert Place.of(tmp_path, base, loaded(base)) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"reason": ""}'])
def test_a_file_that_is_no_proof_is_proven_anew_and_replaced(tmp_path, base, text):
    model = loaded(base)
    place = Place.of(tmp_path / "proofs", base, model)
    place.file.parent.mkdir()
    place.file.write_text(text)
    prepare(model, place)
    assert json.loads(place.file.read_text()) == {"reason": "", "has_head": True}


def test_a_folder_that_can_not_be_written_into_only_means_a_proof_each_time(tmp_path, base, caplog):
    (tmp_path / "proofs").write_text("a file")
    model = loaded(base)
    with caplog.at_level("INFO"):
        assert prepare(model, Place.of(tmp_path / "proofs", base, model)).packs
    assert "How the network may be run isn't remembered" in caplog.text
