"""The process that runs: its loops, its start and stop, what it tells systemd and n8n."""
