"""What one boot is given: the project's wheel, the wheels it depends on, and the guest's checks."""

import shutil
import subprocess
import sys
from pathlib import Path

from tests.vm import inside

PROJECT = Path(__file__).parents[2]
# What the guest's Python takes: Debian bookworm's.
TARGET = (
    "--only-binary=:all:",
    "--implementation=cp",
    "--python-version=3.11",
    "--platform=manylinux_2_28_x86_64",
    "--platform=manylinux2014_x86_64",
    "--platform=any",
)
START = """\
#!/bin/sh
set -e
python3 -m venv --without-pip /opt/worker-exporter
python3 -m pip --python /opt/worker-exporter/bin/python install --quiet --no-index \\
    --find-links=/opt/payload/wheelhouse --root-user-action=ignore worker-exporter
cd /opt/payload
exec /opt/worker-exporter/bin/python -m inside.{run} "$1"
"""


def make_wheelhouse(folder: Path) -> None:
    """The project's wheel in `folder`, and wheels of all that it needs.

    Raises RuntimeError with pip's words where it fails.
    """
    _pip("wheel", "--no-deps", f"--wheel-dir={folder}", str(PROJECT))
    (wheel,) = folder.glob("worker_exporter-*.whl")
    _pip("download", *TARGET, f"--dest={folder}", f"--find-links={folder}", str(wheel))


def make_payload(folder: Path, wheelhouse: Path, run: str) -> None:
    """In `folder`, what a boot needs that runs the module inside.<run>."""
    source = Path(inside.__file__).parent
    shutil.copytree(source, folder / "inside", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(wheelhouse, folder / "wheelhouse")
    shutil.copytree(PROJECT / "deploy" / "worker-sidecar", folder / "deploy")
    start = folder / "start"
    start.write_text(START.format(run=run))
    start.chmod(0o755)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments, "--quiet", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
