"""What systemd says of units, asked over D-Bus in a thread of its own, and whose units they are."""
