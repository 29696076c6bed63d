"""Dashboards for a Grafana, by whichever of its two APIs it has."""
