"""Whether the model hub can be asked, and what is here of it. One short question stands before every load: without a
network, huggingface_hub would try each file for half a minute.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

from scrpo_cli.errors import UserError
from scrpo_cli.threads import in_a_thread

SECONDS = 5.0
"""How long the hub has to answer. A network that drops packets, or that cannot look up a name, says nothing at all."""


@cache
def answers(name: str, revision: str | None = None) -> bool:
    """Whether the hub can be reached; False leaves what is in the local cache. Asked once for each name and process.

    UserError where the hub answers that it has no such model or revision, or not for this user.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    refusal = _raised_by(lambda: HfApi().model_info(name, revision=revision, timeout=SECONDS))
    where = f"model.name: {name}" + (f", revision {revision}" if revision else "")
    match refusal:
        case RevisionNotFoundError():
            raise UserError("The model hub has no such revision.", where, "Check model.revision.")
        case RepositoryNotFoundError():
            fix = "Check the name; for a private or gated model, log in with `hf auth login`."
            raise UserError("The model hub has no such model.", where, fix)
        case HFValidationError():
            raise UserError("This is neither a directory here nor a name on the hub.", where, "Check the name.")
    return refusal is None


def files_of(name: str, revision: str | None = None) -> Path | None:
    """The directory of a model's files: its own, or in the hub's cache, where it is called as the commit; None where
    they are not here.
    """
    from huggingface_hub import try_to_load_from_cache

    if (folder := Path(name)).is_dir():
        return folder
    config = try_to_load_from_cache(name, "config.json", revision=revision)
    return Path(config).parent if isinstance(config, str) else None


def _raised_by(ask: Callable[[], object]) -> BaseException | None:
    """What the question raised; TimeoutError without an answer in time. It is asked in a thread of its own, which is
    left behind then: looking up a host's name knows no time limit.
    """
    try:
        return in_a_thread(ask).exception(SECONDS)
    except TimeoutError as late:
        return late
