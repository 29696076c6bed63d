"""A booted Debian with systemd: the exporter's figures against those of systemctl."""
