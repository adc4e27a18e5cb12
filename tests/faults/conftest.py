"""A place for file systems that tests mount."""

import subprocess

import pytest


@pytest.fixture(scope="session")
def namespace(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command under which a small file system may be mounted; it goes away with the process."""
    folder = tmp_path_factory.mktemp("mount")
    said = []
    for command in (["unshare", "-m"], ["unshare", "-rm"]):
        done = subprocess.run([*command, "mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, text=True)
        if done.returncode == 0:
            return command
        said.append(f"{' '.join(command)}: {done.stderr.strip()}")
    pytest.fail("No small file system can be mounted here, as root or in a user namespace:\n" + "\n".join(said))
