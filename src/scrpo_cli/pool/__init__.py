"""The database that survives runs: SQLModel tables, migrations, and the few queries that everybody uses."""
