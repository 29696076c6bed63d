"""`python -m worker_sidecar`."""

from worker_sidecar.cli import main

if __name__ == "__main__":
    main()
