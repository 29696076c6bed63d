"""Docker's cgroupfs driver: `python -m inside.sidecar_docker_cgroupfs RESULTS`."""

import sys
from pathlib import Path

from .sidecar_docker import main

if __name__ == "__main__":
    main("cgroupfs", Path(sys.argv[1]))
