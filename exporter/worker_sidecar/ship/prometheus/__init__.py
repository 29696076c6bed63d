"""Rules for a Prometheus: as files of a directory that it loads."""
