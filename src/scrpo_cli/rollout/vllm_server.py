"""vLLM servers: token ids in and out over HTTP, the policy's adapter loaded on each of them at every sync.

    VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 vllm serve MODEL --enable-lora --max-lora-rank 64 \\
        --enable-scale-out --logprobs-mode processed_logprobs --tensor-parallel-size 4

A load reaches only the replica that answers it, so every URL is a single one (no --data-parallel-size), and each gets
every version. The servers read the adapter's files: where they run elsewhere, `rollout.vllm.adapters` is a directory
that both sides see under the same path.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, as_completed
from contextlib import suppress
from typing import Any

import httpx

from scrpo_cli.errors import RunError, UserError
from scrpo_cli.recipe.models import VllmConfig
from scrpo_cli.rollout.adapters import AdapterVersion, Publisher
from scrpo_cli.rollout.base import Policy
from scrpo_cli.rollout.versioned import Answer, Heard, VersionedEngine

AT_A_TIME = 128
"""Requests that one server has at a time; it batches them."""
KEY = "VLLM_API_KEY"
"""Environment variable with the servers' --api-key."""


class VllmServers(VersionedEngine):
    """Row i of a batch goes to server i modulo their number: with equal draws, whichever answers."""

    name = "vllm_server"

    def __init__(self, policy: Policy, publisher: Publisher, cfg: VllmConfig) -> None:
        super().__init__(policy, publisher)
        self.servers = [client(url, cfg.timeout) for url in cfg.urls]
        self.longest = min(map(longest, self.servers))

    @property
    def copies(self) -> Sequence[str]:
        return [str(server.base_url) for server in self.servers]

    @property
    def room(self) -> int:
        return self.longest

    def load(self, version: AdapterVersion) -> None:
        body = {"lora_name": version.name, "lora_path": str(version.directory)}
        try:
            for server in self.servers:
                call(server, "POST", "/v1/load_lora_adapter", body)
        except (RunError, UserError):
            with suppress(RunError):  # those that have it are not to keep what nobody will unload
                self.forget(version)
            raise

    def forget(self, version: AdapterVersion) -> None:
        for server in self.servers:
            call(server, "POST", "/v1/unload_lora_adapter", {"lora_name": version.name}, gone=True)

    def ask(self, prompts: Sequence[Sequence[int]], params: Sequence[dict[str, Any]], what: str, heard: Heard) -> None:
        name = self.current.name

        def one(row: int) -> Answer:
            body = {"token_ids": list(prompts[row]), "sampling_params": params[row], "model": name}
            found = call(self.servers[row % len(self.servers)], "POST", "/inference/v1/generate", body)
            if found.get("model") not in (None, name):
                told = f"A server answered with {found['model']} and not with {name}."
                raise RunError(told, str(self.servers[row % len(self.servers)].base_url), "Name single replicas.")
            return answer_of(found["choices"][0])

        together(one, len(prompts), AT_A_TIME * len(self.servers), heard)

    def close(self) -> None:
        for server in self.servers:
            for version in self.known:
                try:
                    call(server, "POST", "/v1/unload_lora_adapter", {"lora_name": version.name}, gone=True)
                except RunError:
                    break
            server.close()
        super().close()


def together(one: Callable[[int], Answer], rows: int, at_a_time: int, heard: Heard) -> None:
    """`heard` of `one` answer for each row as they come, `at_a_time` asked for. After an error or a stop signal nothing
    more is asked for, and nothing waited for: unlike those of a ThreadPoolExecutor, our threads may be left behind.
    """
    futures: dict[Future[Answer], int] = {Future(): row for row in range(rows)}
    left = deque(futures.items())

    def work() -> None:
        with suppress(IndexError):
            while True:
                future, row = left.popleft()
                try:
                    future.set_result(one(row))
                except Exception as error:  # noqa: BLE001 it is raised by whoever waits
                    future.set_exception(error)

    try:
        for _ in range(min(rows, at_a_time)):
            threading.Thread(target=work, daemon=True).start()
        for done in as_completed(futures):
            heard(futures[done], done.result())
    finally:
        left.clear()


def client(url: str, timeout: float) -> httpx.Client:
    headers = {"Authorization": f"Bearer {os.environ[KEY]}"} if os.environ.get(KEY) else {}
    limits = httpx.Limits(max_connections=AT_A_TIME + 1)  # one to unload by while all others are waited for
    transport = httpx.HTTPTransport(retries=2, limits=limits)
    return httpx.Client(base_url=url, headers=headers, timeout=timeout, transport=transport)


def reach(url: str, timeout: float) -> int:
    """The longest sequence of a server; RunError where it does not answer."""
    with client(url, timeout) as server:
        return longest(server)


def longest(server: httpx.Client) -> int:
    models = call(server, "GET", "/v1/models")["data"]
    return min(model["max_model_len"] for model in models if model.get("max_model_len"))


def call(
    server: httpx.Client, method: str, path: str, body: Mapping[str, Any] | None = None, gone: bool = False
) -> Any:
    """The JSON that comes back, or its text; `gone`: what is not there needs no answer."""
    url = f"{server.base_url}".rstrip("/") + path
    try:
        response = server.request(method, path, json=body)
    except httpx.TimeoutException as error:
        raise RunError(f"No answer within {server.timeout.read:g} s.", url, "Raise rollout.vllm.timeout.") from error
    except httpx.HTTPError as error:
        raise RunError(f"The server cannot be reached: {error}", url, "Start it, then resume the run.") from error
    if response.is_success:
        return response.json() if "json" in response.headers.get("content-type", "") else response.text
    if response.status_code == httpx.codes.NOT_FOUND and path.endswith("lora_adapter") and not gone:
        fix = "Start it with VLLM_ALLOW_RUNTIME_LORA_UPDATING=1 and --enable-lora."
        raise UserError(f"The server does not load adapters at run time: {said(response)}", url, fix)
    if gone:
        return None
    raise RunError(f"The server refused: {said(response)}", url, "See its log, then resume the run.")


def said(response: httpx.Response) -> str:
    """The error's own message, in one line."""
    try:
        found = response.json()
    except ValueError:
        found = response.text
    if isinstance(found, Mapping):
        error = found.get("error", found)
        found = error.get("message", error) if isinstance(error, Mapping) else error
    return " ".join(str(found).split())[:300] or f"status {response.status_code}"


def answer_of(choice: Mapping[str, Any]) -> Answer:
    content = ((choice.get("logprobs") or {}).get("content")) or []
    ids = [int(token) for token in choice["token_ids"]]
    if [token_of(at) for at in content] != ids:
        raise RunError("A server's log-probs are not those of its tokens.", "/inference/v1/generate", "Update vLLM.")
    first = {token_of(at): at["logprob"] for at in [content[0], *content[0]["top_logprobs"]]} if content else {}
    return Answer(ids, [float(at["logprob"]) for at in content], first, choice["finish_reason"] == "stop")


def token_of(at: Mapping[str, Any]) -> int:
    """vLLM 0.31 has the id in the token's name alone, `token_id:17`."""
    return int(at["token_id"] if "token_id" in at else at["token"].removeprefix("token_id:"))
