"""What the real SDK binds to a pipeline's inputs besides whole inputs: groups, texts, counts, computes and limits."""

from collections.abc import Callable
from typing import Any

import pytest
from azure.ai.ml import Input, MpiDistribution, Output, PyTorchDistribution, command, dsl
from azure.ai.ml.dsl._group_decorator import group
from azure.ai.ml.entities import AmlCompute, Environment
from azure.core.exceptions import HttpResponseError

from mafunzo import Workspace
from mafunzo.entities.job import Step


@pytest.fixture(scope="module")
def say(client: Any) -> Any:
    """A command that says a text and a number."""
    made = client.environments.create_or_update(
        Environment(name="bound", image="mcr.microsoft.com/azureml/any", version="1")
    )
    return command(
        command="echo said ${{inputs.text}} ${{inputs.number}}",
        environment=f"azureml:{made.name}:{made.version}",
        inputs={"text": Input(type="string"), "number": Input(type="integer", default=1)},
    )


@pytest.fixture(scope="module")
def done(
    client: Any, wait: Callable[[str], Any], workspace: Workspace
) -> Callable[[Any], tuple[list[Step], list[str]]]:
    """Runs a job that is to complete; gives its steps and what they said."""

    def done(job: Any) -> tuple[list[Step], list[str]]:
        job.settings.force_rerun = True
        made = client.jobs.create_or_update(job)
        assert wait(made.name).status == "Completed"
        found = workspace.jobs.get(made.name)
        said = [line for step in found.steps for line in found.logs(step.name).splitlines() if line.startswith("said")]
        return list(found.steps), said

    return done


@group
class Inner:
    m: int = 4


@group
class Outer:
    n: int = 3
    inner: Inner = Inner()


def test_groups_of_inputs_reach_commands_and_pipelines_nested_and_registered(say, client, done):
    @dsl.pipeline(name="grouped")
    def grouped(g: Outer):
        say(text="nested", number=g.n)
        say(text="deep", number=g.inner.m)

    registered = client.components.create_or_update(grouped(g=Outer()).component)

    @dsl.pipeline(default_compute="local")
    def whole(g: Outer):
        say(text="alone", number=g.inner.m)
        grouped(g=g)
        registered(g=Outer(n=g.n))

    assert done(whole(g=Outer(n=5, inner=Inner(m=6))))[1] == [
        "said alone 6", "said nested 5", "said deep 6", "said nested 5", "said deep 4",
    ]  # fmt: skip


def test_text_around_bindings_is_kept_in_pipelines_within_pipelines_too(say, done):
    @dsl.pipeline
    def inner(s: str, n: int = 7):
        say(text=f"in-{s}-{n}")

    @dsl.pipeline(default_compute="local")
    def outer(s: str, n: int):
        say(text=f"pre-{s}-{n}-post")
        inner(s=f"<{s}>")

    assert done(outer(s="it's", n=2))[1] == ["said pre-it's-2-post 1", "said in-<it's>-7 1"]


def test_a_path_or_an_output_within_a_text_is_refused(say, client, folder):
    write = command(command="true", environment="azureml:bound:1", outputs={"out": Output(type="uri_folder")})

    @dsl.pipeline(default_compute="local")
    def paths(d: Input(type="uri_folder")):
        first = write()
        say(text=f"a-{d}")
        say(text=f"b-{first.outputs.out}")

    with pytest.raises(HttpResponseError) as refused:
        client.jobs.create_or_update(paths(d=Input(type="uri_folder", path=str(folder))))
    assert "text is 'a-${{parent.inputs.d}}', but d is a file or folder, expected a value." in str(refused.value)
    assert ", but what a step writes is a file or folder, expected a value." in str(refused.value)


def test_counts_computes_and_limits_are_the_jobs_inputs(say, client, done):
    client.compute.begin_create_or_update(AmlCompute(name="bound-cluster", size="Standard_DS3_v2")).result()

    @dsl.pipeline
    def inner(where: str, limit: str):
        third = say(text="third")
        third.compute = where
        third.set_limits(timeout=limit)

    @dsl.pipeline(default_compute="local")
    def bound(n: int, where: str, seconds: int, limit: str):
        first = say(text="first")
        first.compute = where
        first.resources = {"instance_count": n}
        first.distribution = MpiDistribution(process_count_per_instance=2)
        first.set_limits(timeout=seconds)
        second = say(text="second")
        second.distribution = PyTorchDistribution(process_count_per_instance=n)
        inner(where=where, limit=limit)

    steps, _ = done(bound(n=2, where="bound-cluster", seconds=90, limit="PT2M"))
    assert [(step.spec.resources.processes, step.spec.timeout_s) for step in steps] == [(4, 90), (2, 0), (1, 120)]
    with pytest.raises(HttpResponseError) as refused:
        client.jobs.create_or_update(bound(n=0, where="nowhere", seconds=-1, limit="soon"))
    assert [fault for fault in str(refused.value).splitlines() if fault.startswith("  - ")][:6] == [
        "  - compute of 'first' is 'nowhere', but no compute has that name. Use local, which is this machine, leave it "
        "out, or make one: mafunzo compute create nowhere --size SIZE",
        "  - compute of 'inner.third' is 'nowhere', but no compute has that name. Use local, which is this machine, "
        "leave it out, or make one: mafunzo compute create nowhere --size SIZE",
        "  - step 'first': resources.instance_count is '0', expected a whole number, 1 or more.",
        "  - step 'first': limits.timeout: '-1' isn't a duration, expected a number of seconds, or ISO 8601 such as PT120S.",
        "  - step 'second': distribution.process_count_per_instance is '0', expected a whole number, 1 or more.",
        "  - step 'inner.third': limits.timeout: 'soon' isn't a duration, expected a number of seconds, or ISO 8601 such "
        "as PT120S.",
    ]
