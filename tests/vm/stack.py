"""What a boot needs to run docker-compose.yml without a registry, beside what every boot is given:
the exporter's image, built here by the Dockerfile, and Docker Compose, from the next Debian.
"""

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from tests.tools import require
from tests.vm.payload import PROJECT

SUITE = "trixie"
PACKAGES = ("base-files", "dash", "docker-compose", "python-is-python3", "python3", "python3-pip")
COMPOSE = "./usr/libexec/docker/cli-plugins/docker-compose"
# The official image has no mark that keeps pip out, nor what pip cannot replace.
LEFT_OUT = re.compile(
    r".*/(EXTERNALLY-MANAGED|gconv/.*|dist-packages/(packaging|wheel).*|docker-compose.*)"
    r"|\./usr/share/.+"
)
LOCKED = ("build.txt", "run.txt")
# What the suite's Python takes.
TARGET = (
    "--only-binary=:all:",
    "--implementation=cp",
    "--python-version=3.13",
    "--platform=manylinux_2_28_x86_64",
    "--platform=manylinux2014_x86_64",
    "--platform=any",
)
PIP = "[global]\nno-index = true\nfind-links = /wheels\n"
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
COMPOSE_FILES = ("docker-compose.units.yml", "docker-compose.yml")


def add_stack(payload: Path, cache: Path) -> None:
    """Put into `payload` the stack's files, the exporter's image, and Docker Compose.

    Skips the test where buildah or mmdebstrap is missing; raises RuntimeError with the end of the
    log where one of them or pip fails.
    """
    buildah, made = require("buildah"), _made(cache)
    shutil.copy(made / "docker-compose", payload)
    for name in COMPOSE_FILES:
        shutil.copy(PROJECT / name, payload)
    with tempfile.TemporaryDirectory(dir=cache) as work:
        _build(buildah, made, Path(work), payload / "worker-exporter.tar")


def _build(buildah: str, made: Path, work: Path, image: Path) -> None:
    """Build the Dockerfile as it is; its Python is a Debian's, and its index a folder of wheels."""
    (work / "pip.conf").write_text(PIP)
    base = re.search(r"^ARG PYTHON=(\S+)$", (PROJECT / "Dockerfile").read_text(), re.M)
    assert base, "the Dockerfile names no Python"
    (work / "Base").write_text("FROM scratch\nADD base.tar /\n")
    command = [buildah, f"--root={work}/root", f"--runroot={work}/run", "--storage-driver=vfs"]
    build = [*command, "build", "--isolation=chroot", "--format=docker"]
    _run([*build, f"--file={work}/Base", f"--tag=docker.io/library/{base[1]}", str(made)])
    mounts = {
        made / "wheels": "/wheels",
        work / "pip.conf": "/etc/pip.conf",
        # pip loads it, whatever it is asked for.
        Path(CERTIFICATES): CERTIFICATES,
    }
    given = [f"--volume={source}:{target}:ro" for source, target in mounts.items()]
    _run([*build, "--pull-never", *given, "--tag=worker-exporter", str(PROJECT)])
    _run([*command, "push", "worker-exporter", f"docker-archive:{image}:worker-exporter:latest"])


def _made(cache: Path) -> Path:
    """A folder below `cache` with base.tar, wheels and docker-compose, made unless it is there."""
    made = cache / f"stack-{_key()}"
    if made.exists():
        return made
    mmdebstrap = require("mmdebstrap")
    cache.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="stack-", dir=cache))
    try:
        _download_wheels(work / "wheels")
        _make_base(work, mmdebstrap)
        if not made.exists():
            work.rename(made)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return made


def _key() -> str:
    locked = [(PROJECT / "requirements" / name).read_text() for name in LOCKED]
    parts = (SUITE, PACKAGES, COMPOSE, LEFT_OUT.pattern, TARGET, locked)
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]


def _download_wheels(folder: Path) -> None:
    locked = [f"--requirement={PROJECT / 'requirements' / name}" for name in LOCKED]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    _run([*command, "--no-deps", "--require-hashes", *TARGET, f"--dest={folder}", *locked])


def _make_base(folder: Path, mmdebstrap: str) -> None:
    packed = folder / "packed.tar"
    # Unpacked, not installed: there is no use for what installing does.
    words = ("--variant=extract", "--format=tar", f"--include={','.join(PACKAGES)}", SUITE)
    _run([mmdebstrap, *words, str(packed)])
    with tarfile.open(packed) as source, tarfile.open(folder / "base.tar", "w") as target:
        for member in source:
            content = source.extractfile(member) if member.isreg() else None
            if member.name == COMPOSE:
                source.extract(source.getmember(COMPOSE), folder)
            if not LEFT_OUT.fullmatch(member.name):
                target.addfile(member, content)
    (folder / COMPOSE).rename(folder / "docker-compose")
    shutil.rmtree(folder / "usr")
    packed.unlink()


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        said = (done.stdout + done.stderr)[-3000:]
        raise RuntimeError(f"{' '.join(command)} failed:\n{said}")
