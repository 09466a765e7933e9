"""Programs as a task: where they come from, how they are read out of a text, and how they are tried."""
