"""Asking the model hub: once, briefly, and with an answer for everything that it may say."""

from __future__ import annotations

import time
from typing import Any

import pytest
from huggingface_hub import HfApi
from huggingface_hub.errors import OfflineModeIsEnabled

from scrpo_cli import hub
from scrpo_cli.errors import UserError


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    hub.answers.cache_clear()
    monkeypatch.setattr(hub, "SECONDS", 0.3)


def says(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[str]:
    asked: list[str] = []

    def model_info(self: HfApi, name: str, **_: object) -> None:
        asked.append(name)
        answer()

    monkeypatch.setattr(HfApi, "model_info", model_info)
    return asked


def raising(error: Exception) -> Any:
    def answer() -> None:
        raise error

    return answer


@pytest.mark.parametrize(
    ("answer", "reached"),
    [
        (lambda: None, True),
        (lambda: time.sleep(30), False),  # packets that are dropped
        (raising(ConnectionError("refused")), False),
        (raising(OfflineModeIsEnabled("offline")), False),
    ],
)
def test_it_is_asked_once_and_briefly(monkeypatch: pytest.MonkeyPatch, answer: Any, reached: bool) -> None:
    asked = says(monkeypatch, answer)
    start = time.monotonic()
    assert [hub.answers("owner/name") for _ in range(3)] == [reached] * 3
    assert asked == ["owner/name"]
    assert time.monotonic() - start < 5


def test_a_malformed_name_is_refused_without_a_network() -> None:
    with pytest.raises(UserError, match="neither a directory here nor a name on the hub"):
        hub.answers("a/b/c/d")


def test_what_the_hub_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    for kind, words in ((RepositoryNotFoundError, "no such model"), (RevisionNotFoundError, "no such revision")):
        hub.answers.cache_clear()
        says(monkeypatch, raising(kind.__new__(kind)))
        with pytest.raises(UserError, match=words) as caught:
            hub.answers("owner/nmae", "main")
        assert "owner/nmae" in caught.value.where
