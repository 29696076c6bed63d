"""What a scrape costs, measured on real cgroups: see docs/benchmarks.md."""
