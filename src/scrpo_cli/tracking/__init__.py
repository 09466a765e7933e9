"""Where a run's metrics go: metrics.jsonl (the truth), the console, W&B."""
