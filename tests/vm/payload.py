"""What one boot is given: the project as installed, all it depends on, and the guest's checks."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.vm import inside

PROJECT = Path(__file__).parents[2]
# What of the checkout the guest finds at the same paths below its payload.
CARRIED = (
    "alerts",
    "bench/prometheus.py",
    "bench/signals.py",
    "dashboards/json",
    "deploy",
    "tests/alerting.py",
    "tests/queries.py",
    "tests/support.py",
)
# What the guest's Python takes: Debian bookworm's.
TARGET = (
    "--only-binary=:all:",
    "--implementation=cp",
    "--python-version=3.11",
    "--platform=manylinux_2_28_x86_64",
    "--platform=manylinux2014_x86_64",
    "--platform=any",
)
QUIET = ("--quiet", "--disable-pip-version-check")
START = """\
#!/bin/sh
set -e
python3 -m venv --without-pip /opt/worker-exporter
mv /opt/payload/packages/* /opt/worker-exporter/lib/python3.11/site-packages/
mv /opt/payload/bin/* /opt/worker-exporter/bin/
cd /opt/payload
exec /opt/worker-exporter/bin/python -m inside.{run} "$1"
"""
SCRIPT = """\
#!/opt/worker-exporter/bin/python
import sys
from {package}.cli import main
sys.exit(main())
"""


def install(folder: Path) -> None:
    """The project's wheel and the locked libraries in `folder`, for the guest's Python.

    Here, since pip takes half a minute in a guest. Raises RuntimeError with pip's words where it
    fails.
    """
    locked = PROJECT / "requirements" / "run.txt"
    with tempfile.TemporaryDirectory() as built:
        _python("pip", "wheel", *QUIET, "--no-deps", f"--wheel-dir={built}", str(PROJECT))
        (wheel,) = Path(built).glob("worker_exporter-*.whl")
        for what in (str(wheel), f"--requirement={locked}"):
            _python("pip", "install", *QUIET, "--no-deps", *TARGET, f"--target={folder}", what)
    shutil.rmtree(folder / "bin")
    _python("compileall", "-q", "--invalidation-mode=unchecked-hash", str(folder))


def make_payload(folder: Path, packages: Path, run: str) -> None:
    """In `folder`, what a boot needs that runs the module inside.<run>."""
    source = Path(inside.__file__).parent
    shutil.copytree(source, folder / "inside", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(packages, folder / "packages")
    for name in CARRIED:
        _carry(PROJECT / name, folder / name)
    _program(folder / "start", START.format(run=run))
    for name in ("exporter", "sidecar"):
        _program(folder / "bin" / f"worker-{name}", SCRIPT.format(package=f"worker_{name}"))


def _carry(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("secrets"))
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)


def _program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def _python(module: str, *arguments: str) -> None:
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
