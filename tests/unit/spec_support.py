"""What the tests of workers.yaml share: files to load, and the lines that are said of them."""

from pathlib import Path

import pytest

from worker_sidecar.errors import SidecarError
from worker_sidecar.spec import Config, load


def read(directory: Path, text: str) -> Config:
    """The configuration that `text`, in a file, is."""
    path = directory / "workers.yaml"
    path.write_text(text)
    return load(str(path))


def refusal(directory: Path, text: str | bytes) -> SidecarError:
    """The error that a file with `text` is refused with."""
    path = directory / "workers.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(SidecarError) as caught:
        load(str(path))
    return caught.value


def faults(directory: Path, text: str | bytes) -> list[str]:
    """The lines of that error, each without the path of the file: "LINE: KEY: TEXT"."""
    path = str(directory / "workers.yaml")
    lines = str(refusal(directory, text)).split("\n")
    assert all(line.startswith((f"{path}:", "and ")) for line in lines)
    return [line.removeprefix(f"{path}:").lstrip() for line in lines]
