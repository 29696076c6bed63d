"""Rules for a server with a ruler API: Mimir, Cortex, and Grafana before or in place of one."""
