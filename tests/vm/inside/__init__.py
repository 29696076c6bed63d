"""What runs inside the booted Debian: workers, the exporter, and the checks on its figures."""
