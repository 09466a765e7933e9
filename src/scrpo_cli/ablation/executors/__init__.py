"""Who runs the runs of a sweep: a small protocol, and where commands can be started."""
