"""`python -m worker_exporter` is the command `worker-exporter`."""

from worker_exporter.cli import main

if __name__ == "__main__":
    main()
