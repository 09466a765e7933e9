"""What tests of several rooms share: `scrpo` in a process of its own, and the real data."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import ENVIRONMENT, UNSET, Outcome, run_scrpo, start_server

os.environ.pop("PYTHONUNBUFFERED", None)  # what a process printed and did not flush is lost to users, so also here

for heard in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(heard) == signal.SIG_IGN:  # under nohup, or behind a script's `&`; what we start inherits it
        signal.signal(heard, signal.default_int_handler if heard == signal.SIGINT else signal.SIG_DFL)


@pytest.fixture(scope="session")
def scrpo_server() -> None:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        for name in UNSET:
            patch.delenv(name, raising=False)
        start_server()


@pytest.fixture
def scrpo_process(scrpo_server: None, tmp_path: Path) -> Callable[..., Outcome]:
    """Run `scrpo ARGS` as a process in an empty directory; `hooks` limit, signal or kill it."""

    def run(*args: object, directory: Path = tmp_path, **options: Any) -> Outcome:
        return run_scrpo(args, directory, **options)

    return run


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The directory of real benchmark data; skips where there is none."""
    root = Path(os.environ.get("SCRPO_DATA_DIR") or Path(__file__).parents[2] / "shared" / "data")
    if not (root / "gsm8k").is_dir():
        pytest.skip(f"no benchmark data at {root}; set SCRPO_DATA_DIR")
    return root.resolve()
