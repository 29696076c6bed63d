"""The demo: real workers, the real exporter on them, a table of what it says."""
