"""Draws what a command printed on a terminal as a PNG: `python tools/draw_terminal.py OUT.png [--from TEXT] < log`.

For the pictures in the docs: `script -qc "make demo" demo.log`, then `--from "3. Did it get better"`.
"""

import argparse
import re
import sys
from pathlib import Path

from matplotlib.figure import Figure

BACK, INK, BRIGHT, GREEN, GREY = "#0f1720", "#c9d4df", "#ffffff", "#5fd39a", "#8795a4"
LINE_INCHES, COLUMN_INCHES, MOST_COLUMNS = 0.19, 0.0915, 128
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
TITLE = re.compile(r"^(\d\. |Everything is stopped)")
GOOD = re.compile(r"\b(better|verified|completed|cached)\b")


def main() -> None:
    """Draw the lines of standard input."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--from", dest="start", default="", help="the first line that holds this text")
    arguments = parser.parse_args()
    lines = [shown(line) for line in sys.stdin.read().split("\n")]
    first = next((i for i, line in enumerate(lines) if arguments.start in line), None)
    if first is None:
        sys.exit(f"No line holds '{arguments.start}'.")
    draw("\n".join(lines[first:]).rstrip().split("\n"), arguments.out)


def shown(line: str) -> str:
    """Return what a terminal would show of a line: the last of what was written over it, without colours."""
    plain = CONTROL.sub("", line.rstrip("\r").rsplit("\r", 1)[-1])
    return plain if len(plain) <= MOST_COLUMNS else plain[: MOST_COLUMNS - 1] + "…"


def draw(lines: list[str], out: Path) -> None:
    """Write the picture."""
    width = max(map(len, lines)) * COLUMN_INCHES + 0.5
    height = (len(lines) + 1.5) * LINE_INCHES
    figure = Figure(figsize=(width, height), facecolor=BACK)
    for number, line in enumerate(lines):
        colour = BRIGHT if TITLE.match(line) else GREY if line.lstrip().startswith(("picture", "asked")) else INK
        colour = GREEN if GOOD.search(line) and colour is INK else colour
        weight = "bold" if TITLE.match(line) else "normal"
        height_share = 1 - (number + 1) * LINE_INCHES / height
        figure.text(
            0.25 / width,
            height_share,
            line,
            family="DejaVu Sans Mono",
            size=10.2,
            color=colour,
            weight=weight,
            va="center",
        )
    figure.savefig(out, dpi=110)


if __name__ == "__main__":
    main()
