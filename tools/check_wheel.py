"""Build the wheel, check that every source, YAML and data file of the package is in it, install it elsewhere and run it."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
KINDS = {".py", ".yml", ".jinja", ".jsonl", ".html", ".typed"}


def main() -> None:
    """Exit with an error that names what is missing."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shutil.rmtree(ROOT / "build" / "lib", ignore_errors=True)  # setuptools packs what an earlier build left there
        build = [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(folder / "dist"),
            str(ROOT),
        ]
        subprocess.run(build, check=True, stdout=subprocess.DEVNULL)
        (wheel,) = (folder / "dist").glob("*.whl")
        packed = set(zipfile.ZipFile(wheel).namelist())
        sources = {str(file.relative_to(ROOT)) for file in (ROOT / "mafunzo").rglob("*") if file.suffix in KINDS}
        if missing := sorted(sources - packed):
            sys.exit(f"The wheel lacks: {', '.join(missing)}")
        install = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--quiet",
            "--no-deps",
            "--target",
            str(folder / "site"),
            str(wheel),
        ]
        subprocess.run(install, check=True)
        environment = os.environ | {"PYTHONPATH": str(folder / "site"), "MAFUNZO_HOME": str(folder / "home")}
        program = "import sys; from mafunzo.entrypoints.main import main; sys.argv = ['mafunzo', *sys.argv[1:]]; main()"
        for words in (["--help"], ["component", "list"], ["model", "list"], ["compute", "sizes"]):
            run = [sys.executable, "-c", program, *words]
            subprocess.run(run, check=True, stdout=subprocess.DEVNULL, env=environment, cwd=folder)
        print(f"{wheel.name}: {len(packed)} files, installs and runs")


if __name__ == "__main__":
    main()
