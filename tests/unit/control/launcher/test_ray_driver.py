"""A driver and the nodes that it takes, without Ray in between: two nodes that share nothing, in folders of this machine."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mafunzo.control.launcher import ray_driver
from mafunzo.control.launcher.ray_cluster import ClusterTask
from mafunzo.control.launcher.ray_driver import Driver, Member, NodeLost, installed, main, marked, version_fault
from mafunzo.control.launcher.ray_node import Node
from mafunzo.entities.compute import ClusterNode, Placement
from mafunzo.errors import InvalidParameter, Unreachable
from mafunzo.tracking.step_folder import StepFolder
from tests.support.waiting import until

LAB = [ClusterNode("127.0.0.1", 1), ClusterNode("127.0.0.2", 1)]
WRITES = (
    "mkdir -p outputs/model/checkpoint-1 && cp inputs/rows outputs/model/checkpoint-1/manifest.json && "
    'echo "{\\"step\\": $RANK}" >> $MAFUNZO_STEP_FOLDER/metrics.jsonl && echo "$RANK of $WORLD_SIZE at $MASTER_ADDR, $WORD" && '
    "cp inputs/rows outputs/model/adapter"
)


class Method:
    """A method of an actor; `remote` runs it at once, and keeps what it raises for whoever asks for the answer."""

    def __init__(self, work: Any) -> None:
        self._work = work

    def remote(self, *arguments: Any) -> Any:
        try:
            return self._work(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever it is, the asker gets it
            return error


class Actor:
    """The handle of a node. is_lost: it is gone from its next look on."""

    def __init__(self, node: Node) -> None:
        self.node, self.is_lost, self.is_lost_at_look = node, False, False

    def __getattr__(self, name: str) -> Method:
        if name == "look" and self.is_lost_at_look:
            self.is_lost = True
        return Method(self._gone) if self.is_lost else Method(getattr(self.node, name))

    def _gone(self, *_: Any) -> None:
        raise NodeLost("Node 127.0.0.2 is lost: power cut")


class LabDriver(Driver):
    """A driver of two nodes whose caches are folders below `root`."""

    def __init__(self, root: Path, folder: Path, placement: Placement, is_stopping: Any = lambda: False) -> None:
        super().__init__(folder, placement, is_stopping)
        self._root, self.actors = root, list[Actor]()

    def _usable_nodes(self) -> dict[str, ClusterNode]:
        return {f"id of {node.host}": node for node in LAB}

    def _held(self, usable: Mapping[str, ClusterNode]) -> dict[str, ClusterNode]:
        return self._chosen(usable, usable.keys())

    def _placed(self, nodes: Mapping[str, ClusterNode]) -> list[Member]:
        members = []
        attempt = self._folder.path.name
        for rank, node in enumerate(nodes.values()):
            os.environ["MAFUNZO_CACHE"] = str(self._root / node.host)
            self.actors.append(Actor(Node(node.host, "job", "finetune", attempt, f"of{attempt}")))
            members.append(Member(node, self.actors[-1], 1, rank))
        return members

    def _wait_for_actors(self) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An attempt's folder with an input."""
    folder = tmp_path / "jobs" / "job" / "finetune" / "1"
    folder.mkdir(parents=True)
    (folder / "inputs").mkdir()
    (folder / "inputs" / "rows").write_text("{}")
    return folder


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(_: Member, promise: Any) -> Any:
        if isinstance(promise, Exception):
            raise promise
        return promise

    monkeypatch.setenv("MAFUNZO_CACHE", "")
    monkeypatch.setattr(Member, "answer", answer)
    monkeypatch.setattr(ray_driver, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(ray_driver, "settle", lambda promises: None)
    monkeypatch.setattr(ray_driver, "put", lambda block: block)


def test_both_nodes_run_the_command_and_what_they_write_comes_back(tmp_path: Path, folder: Path) -> None:
    driver = LabDriver(tmp_path, folder, Placement("lab", 2))
    assert driver.run(WRITES, {"WORD": "hello"}) == 0
    log = (folder / "log.txt").read_text()
    assert "[127.0.0.1] 0 of 2 at 127.0.0.1, hello\n" in log
    assert "[127.0.0.2] 1 of 2 at 127.0.0.1, hello\n" in log
    assert (folder / "metrics.jsonl").read_text() == '{"step": 0}\n'  # of the first only
    assert (folder / "outputs" / "model" / "adapter").read_text() == "{}"
    assert [path.name for path in StepFolder(folder).checkpoints] == ["checkpoint-1"]
    until(lambda: not list(tmp_path.glob("127.*/nodes/jobs/*")))  # nothing stays but the contents
    assert len(list(tmp_path.glob("127.*/nodes/contents/*"))) == 2


def test_a_later_attempt_has_the_checkpoints_of_the_earlier_ones_on_each_node(tmp_path: Path, folder: Path) -> None:
    LabDriver(tmp_path, folder, Placement("lab", 2)).run(WRITES, {"WORD": "x"})
    later = folder.parent / "2"
    (later / "inputs").mkdir(parents=True)
    command = "echo has $(cat ../1/outputs/model/checkpoint-1/manifest.json); mkdir -p outputs"
    assert LabDriver(tmp_path, later, Placement("lab", 2)).run(command, {}) == 0
    assert (later / "log.txt").read_text().count("has {}") == 2


def test_the_exit_code_and_the_error_of_a_node_that_fails_are_the_step_s_and_the_others_end(
    tmp_path: Path, folder: Path
) -> None:
    error = {"code": "invalid_data", "message": "row 3", "faults": []}
    command = (
        f"[ $RANK = 0 ] && exec sleep 600; echo '{json.dumps(error)}' > $MAFUNZO_STEP_FOLDER/error.json; "
        "echo trouble; exit 2"
    )
    assert LabDriver(tmp_path, folder, Placement("lab", 2)).run(command, {}) == 2
    assert json.loads((folder / "error.json").read_text()) == error
    assert "[127.0.0.2] trouble" in (folder / "log.txt").read_text()


def test_a_node_that_lost_another_ends_the_attempt_as_lost(tmp_path: Path, folder: Path) -> None:
    error = json.dumps({"code": "peer_lost", "message": "Another process is gone", "faults": []})
    command = f"[ $RANK = 1 ] && exec sleep 600; echo '{error}' > $MAFUNZO_STEP_FOLDER/error.json; exit 1"
    with pytest.raises(NodeLost, match=r"Node 127.0.0.1 has lost another one: Another process"):
        LabDriver(tmp_path, folder, Placement("lab", 2)).run(command, {})
    assert not (folder / "error.json").exists()


def test_processes_that_are_killed_without_a_word_on_a_node_end_the_attempt_as_cut_off(
    tmp_path: Path, folder: Path
) -> None:
    command = "[ $RANK = 0 ] && exec sleep 600; kill -9 $PPID; kill -9 $$"
    assert LabDriver(tmp_path, folder, Placement("lab", 2)).run(command, {}) == 137


def test_a_lost_node_ends_the_attempt_and_the_first_one_s_checkpoints_are_saved_here(
    tmp_path: Path, folder: Path
) -> None:
    driver = LabDriver(tmp_path, folder, Placement("lab", 2), is_stopping=lambda: lose(driver))

    def lose(driver: LabDriver) -> bool:
        if list(tmp_path.glob("127.0.0.1/nodes/jobs/*/finetune/1/outputs/model/checkpoint-1/manifest.json")):
            driver.actors[1].is_lost_at_look = True
        return False

    with pytest.raises(NodeLost, match=r"Node 127.0.0.2 is lost: power cut"):
        driver.run(f"{WRITES}; sleep 600", {"WORD": "x"})
    assert [path.name for path in StepFolder(folder).checkpoints] == ["checkpoint-1"]


def test_sigterm_reaches_the_processes_and_what_they_save_comes_back(tmp_path: Path, folder: Path) -> None:
    stops = folder / "stops"
    driver = LabDriver(tmp_path, folder, Placement("lab", 2), is_stopping=lambda: stops.exists() or has_begun())

    def has_begun() -> bool:
        logs = list(tmp_path.glob("127.*/nodes/jobs/*/finetune/1/log.txt"))
        if len(logs) == 2 and all("ready" in log.read_text() for log in logs):
            stops.touch()
        return False

    command = (
        "trap 'mkdir -p outputs/model/checkpoint-9; echo {} > outputs/model/checkpoint-9/manifest.json; exit 143' TERM; "
        "echo ready; while true; do sleep 0.05; done"
    )
    assert driver.run(command, {}) == 143
    assert [path.name for path in StepFolder(folder).checkpoints] == ["checkpoint-9"]


def test_fewer_nodes_than_asked_for_are_told_or_refused_where_that_is_strict(
    tmp_path: Path, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        LabDriver(tmp_path, folder, Placement("lab", 4)).run(WRITES, {"WORD": "x"})
    assert "4 node(s) are asked for, compute 'lab' has 2 node(s): the steps keep their rows" in caplog.text
    with pytest.raises(InvalidParameter, match="strict_compute is 'true', and 4 node"):
        LabDriver(tmp_path, folder, Placement("lab", 4, is_strict=True)).run(WRITES, {})


def test_a_node_that_is_free_is_rather_taken_than_one_that_others_hold(tmp_path: Path, folder: Path) -> None:
    nodes = {f"id of {node.host}": node for node in LAB}
    driver = LabDriver(tmp_path, folder, Placement("lab", 1))
    assert list(driver._chosen(nodes, {"id of 127.0.0.2"})) == ["id of 127.0.0.2"]
    assert list(driver._chosen(nodes, set())) == ["id of 127.0.0.1"]
    driver = LabDriver(tmp_path, folder, Placement("lab", 2))
    assert list(driver._chosen(nodes, {"id of 127.0.0.2"})) == list(nodes), "ranks keep their order"


class Group:
    """A group of nodes in Ray's books."""

    def __init__(self, hosts: list[str], is_ready: bool) -> None:
        self.hosts, self._is_ready = hosts, is_ready

    def wait(self, _: float) -> bool:
        return self._is_ready


def test_a_node_that_others_hold_is_let_go_for_the_first_that_is_free(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    nodes, looks, released = {node.host: node for node in LAB}, [set[str](), {"127.0.0.2"}], list[Group]()
    monkeypatch.setattr(ray_driver, "free_nodes", lambda nodes: (looks[len(released)], set(nodes)))
    monkeypatch.setattr(
        ray_driver, "hold", lambda nodes, _: Group([node.host for node in nodes], bool(looks[len(released)]))
    )
    monkeypatch.setattr(ray_driver, "release", released.append)
    driver = Driver(folder, Placement("lab"), lambda: False)
    with caplog.at_level("INFO"):
        assert list(driver._held(nodes)) == ["127.0.0.2"]
    assert [group.hosts for group in released] == [["127.0.0.1"]]
    assert caplog.text.count("Waits for the cores of 127.0.0.1") == 1


def test_a_node_that_goes_away_while_nodes_are_waited_for_is_lost(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_driver, "free_nodes", lambda nodes: (set(), {"127.0.0.1"}))
    with pytest.raises(NodeLost, match=r"Node 127.0.0.2 is lost"):
        Driver(folder, Placement("lab"), lambda: False)._held({node.host: node for node in LAB})
    assert Driver(folder, Placement("lab"), lambda: True)._held({}) == {}, "whoever is told to end waits no more"


def test_lines_are_marked_by_node_but_for_those_that_programs_read() -> None:
    assert marked(b"Step 3\n", "10.0.0.2") == b"[10.0.0.2] Step 3\n"
    assert marked(b'{"event": "progress"}\n', "10.0.0.2") == b'{"event": "progress"}\n'


def test_a_node_with_other_packages_is_named_with_each_difference() -> None:
    own = installed(("mafunzo", "torch"))
    assert version_fault("10.0.0.2", own, own) == ""
    text = version_fault("10.0.0.2", own, own | {"torch": "1.0", "mafunzo": "none"})
    assert text.startswith("node 10.0.0.2 has mafunzo none (here ") and ", torch 1.0 (here " in text
    assert installed(("no-such-package",))["no-such-package"] == "none"


@pytest.mark.parametrize(
    ("error", "code", "record"),
    [
        pytest.param(NodeLost("Node 10.0.0.2 is lost"), 137, None, id="lost"),
        pytest.param(Unreachable("10.0.0.1 can't be reached"), 137, None, id="unreachable: it may come back"),
        pytest.param(InvalidParameter("strict"), 2, "invalid_parameter", id="refused"),
        pytest.param(ValueError("a bug"), 1, "failed", id="whatever else"),
    ],
)
def test_an_attempt_that_breaks_is_tried_again_only_where_that_may_help(
    error: Exception, code: int, record: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: object) -> None:
        raise error

    monkeypatch.setattr(ray_driver, "require_port", lambda *_: None)
    monkeypatch.setattr(ray_driver, "disconnect", lambda *_: None)
    monkeypatch.setattr(ray_driver, "connect", connect)
    monkeypatch.setattr(ray_driver.signal, "signal", lambda *_: None)
    assert ray_driver.drive(tmp_path, ClusterTask("10.0.0.1:6379", Placement("lab").__dict__, "train", {})) == code
    path = tmp_path / "error.json"
    assert (json.loads(path.read_text())["code"] if path.exists() else None) == record


@pytest.mark.parametrize(("says_so", "code"), [(True, 5), (False, 137)])
def test_a_driver_that_ray_ends_counts_as_cut_off(
    says_so: bool, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Inner:
        def __init__(self, _: object) -> None:
            if says_so:
                (tmp_path / ray_driver.END_FILE).touch()

        def wait(self) -> int:
            return 5

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ray_driver.sys, "argv", ["ray_driver", "{}"])
    monkeypatch.setattr(ray_driver.subprocess, "Popen", Inner)
    monkeypatch.setattr(ray_driver.signal, "signal", lambda *_: None)
    assert main() == code
