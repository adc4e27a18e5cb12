"""Writes what it was given, and which files lie beside it."""

import argparse
import json
import os
import pathlib

parser = argparse.ArgumentParser()
for name in ("number", "text", "rows", "out"):
    parser.add_argument(f"--{name}")
given = parser.parse_args()
told = {"number": given.number, "text": given.text, "greeting": os.environ.get("GREETING")}
if given.rows:
    told["rows"] = pathlib.Path(given.rows).read_text().splitlines()
told["files"] = sorted(
    str(path) for path in pathlib.Path().rglob("*.*") if path.is_file() and "outputs" not in path.parts
)
(pathlib.Path(given.out) / "told.json").write_text(json.dumps(told))
