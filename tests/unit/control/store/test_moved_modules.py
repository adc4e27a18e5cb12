"""Stored commands of steps after their modules moved."""

from importlib.util import find_spec

import pytest

from mafunzo.control.store.moved_modules import NEW, with_moved_module

NAMES = ("import_model", "prepare_data", "finetune", "evaluate", "package_model", "preview_data")


@pytest.mark.parametrize("name", NAMES)
def test_the_command_of_a_component_that_ships_names_its_module_of_today(name: str) -> None:
    command = f"python -m mafunzo.components.{name} --model '${{{{inputs.model}}}}'"
    body = {"job": "j", "cache_key": "k", "spec": {"command": command, "code": "sha256:1", "is_trusted": True}}
    moved = f"python -m mafunzo.compute.components.{name} --model '${{{{inputs.model}}}}'"
    assert with_moved_module(body) == {**body, "spec": {**body["spec"], "command": moved}}
    assert find_spec(f"{NEW.removeprefix('python -m ')}{name}") is not None


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"command": "python -m mafunzo.components.finetune", "is_trusted": False}, id="a user's own"),
        pytest.param({"command": "python train.py"}, id="a user's, of a row without the field"),
        pytest.param({"command": "python -m mafunzo.compute.components.finetune", "is_trusted": True}, id="moved"),
    ],
)
def test_any_other_command_stays_as_it_is(spec: dict[str, object]) -> None:
    assert with_moved_module({"spec": spec}) == {"spec": spec}
