"""Docker's systemd driver: `python -m inside.sidecar_docker_systemd RESULTS`."""

import sys
from pathlib import Path

from .sidecar_docker import main

if __name__ == "__main__":
    main("systemd", Path(sys.argv[1]))
