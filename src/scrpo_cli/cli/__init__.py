"""The command line: one file a command, parse -> one call -> render. Nothing heavy is imported before it is needed."""
