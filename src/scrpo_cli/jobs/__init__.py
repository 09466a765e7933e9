"""What a command does from start to end: open a run in the database, do the work, resume it, close it."""
