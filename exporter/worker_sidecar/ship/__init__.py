"""Brings the dashboards to a Grafana, and the rules to a Prometheus or a ruler."""
