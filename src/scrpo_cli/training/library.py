"""Recorded attempts for methods that learn from a fixed set; implements `methods.base.Library`."""

from __future__ import annotations

from collections.abc import Sequence

from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import attempts_of, resolve_run
from scrpo_cli.types import Attempt


class RunLibrary:
    """The database as a training run sees it."""

    def __init__(self, db: Database, run_id: str) -> None:
        self.db, self.run_id = db, run_id

    def attempts(self, runs: Sequence[str]) -> list[Attempt]:
        """Attempts of the named runs (ids or unique prefixes), or of this run; never answers to a benchmark."""
        ids = [resolve_run(self.db, ref).id for ref in runs] or [self.run_id]
        return [a for run_id in ids for a in attempts_of(self.db, run_id, evaluations=False)]
