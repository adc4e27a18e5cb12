"""Tests of `mafunzo.workspace.stream`: how events are shown."""

import io
import json

from mafunzo.workspace.stream import Event, render

EVENTS = [
    Event("job", "j1", "running", "running"),
    Event("step", "finetune", "it runs for the first time", "running"),
    Event("progress", "finetune", numbers={"phase": "train", "done": 5, "total": 10, "eta_s": 65.0, "loss": 2.5}),
    Event("line", "finetune", "a line of the log"),
    Event("step", "finetune", "", "completed", {"seconds": 12.5}),
]


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_elsewhere_every_event_is_one_json_object_a_line():
    stream = io.StringIO()
    render(EVENTS, stream)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["job", "step", "progress", "line", "step"]
    assert lines[2] == {
        "event": "progress",
        "name": "finetune",
        "phase": "train",
        "done": 5,
        "total": 10,
        "eta_s": 65.0,
        "loss": 2.5,
    }
    assert lines[4]["seconds"] == 12.5


def test_on_a_terminal_progress_is_one_bar_that_gives_way_to_lines():
    stream = Terminal()
    render(EVENTS, stream)
    shown = stream.getvalue()
    assert "finetune: train 5/10 [##########..........] loss 2.5 ETA 1:05" in shown
    assert "\r\x1b[2K  a line of the log\n" in shown
    assert "step finetune completed in 12.5 s\n" in shown
