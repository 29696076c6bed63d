"""`python -m tests.golden` renews the golden files; read the diff before you keep it."""

import tempfile
from pathlib import Path

from tests.golden.answers import renew

with tempfile.TemporaryDirectory() as directory:
    renew(Path(directory))
