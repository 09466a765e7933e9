"""The wire of `vllm_server`, without vLLM: a server that loads adapters from their files and samples with them."""

from __future__ import annotations

import copy
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest
from training.tiny_policy import moved, random_policy

from scrpo_cli.errors import RunError, UserError
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.recipe.models import RolloutConfig
from scrpo_cli.rollout.base import RowKey, Sampling
from scrpo_cli.rollout.engines import open_engine
from scrpo_cli.rollout.transformers_engine import TransformersEngine
from scrpo_cli.training.adapters import put_weights, read_weights
from scrpo_cli.training.policy import Policy, load_policy
from scrpo_cli.training.probe import Probe
from scrpo_cli.training.runtime import open_runtime

KEYS = [RowKey(0, 0, "test", i) for i in range(6)]
PROMPTS = [[5, 6, 7], [8] * 5, [9, 10], [11], [12, 13], [14]]


class Listener(ThreadingHTTPServer):
    request_queue_size = 256  # of the 5 that it has else, connections beyond are reset at times


class FakeServer:
    """`adapters` that were loaded, by name, with the weights that their files had; `spoil` changes an answer."""

    def __init__(self, policy: Policy) -> None:
        self.policy = Policy(copy.deepcopy(policy.model), policy.tokenizer)
        self.adapters: dict[str, Any] = {}
        self.requests: list[dict[str, Any]] = []
        self.loads, self.spoil = True, lambda answer: answer
        self.lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.reply(200, {"data": [{"id": "base", "max_model_len": 64}]})

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with fake.lock:
                    self.reply(*fake.answer(self.path, body))

            def reply(self, status: int, found: Any) -> None:
                data = json.dumps(found).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None: ...

        self.http = Listener(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, daemon=True).start()

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        if path.endswith("lora_adapter") and not self.loads:
            return 404, {"detail": "Not Found"}
        if path == "/v1/load_lora_adapter":
            self.adapters[body["lora_name"]] = read_weights(body["lora_path"])
            return 200, "loaded"
        if path == "/v1/unload_lora_adapter":
            known = self.adapters.pop(body["lora_name"], None) is not None
            return (200, "unloaded") if known else (404, {"error": {"message": "no such adapter"}})
        if body["model"] not in self.adapters:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        self.requests.append(body)
        put_weights(self.policy.model, self.adapters[body["model"]], "test")
        return 200, self.spoil({"model": body["model"], "choices": [self.choice(body)]})

    def choice(self, body: dict[str, Any]) -> dict[str, Any]:
        params, engine = body["sampling_params"], TransformersEngine(self.policy)
        sampling = Sampling(params["temperature"], params["max_tokens"], params["top_p"])
        (found,) = engine.generate([body["token_ids"]], sampling, [RowKey(params.get("seed", 0), 0, "fake", 0)])
        content = [{"token_id": i, "logprob": lp, "top_logprobs": []} for i, lp in zip(found.ids, found.logprobs)]
        for token in params.get("logprob_token_ids", []):
            (score,) = engine.score([(body["token_ids"], [token])])
            content[0]["top_logprobs"].append({"token_id": token, "logprob": float(score[0, 0])})
        return {"token_ids": found.ids, "finish_reason": found.finish, "logprobs": {"content": content}}


@pytest.fixture
def policy() -> Policy:
    return random_policy(5)


@pytest.fixture
def fakes(policy: Policy) -> Iterator[list[FakeServer]]:
    found = [FakeServer(policy), FakeServer(policy)]
    yield found
    for fake in found:
        fake.http.shutdown()
        fake.http.server_close()


def engine_of(policy: Policy, *fakes: FakeServer, **vllm: Any) -> Any:
    urls = [fake.url for fake in fakes]
    cfg = RolloutConfig.model_validate({"engine": "vllm_server", "vllm": {"urls": urls, "timeout": 60, **vllm}})
    return open_engine(cfg, policy, {})


def test_every_server_gets_every_version_and_rows_are_dealt_in_turn(policy, fakes) -> None:
    engine = engine_of(policy, *fakes)
    for _ in range(4):
        moved(policy)
        engine.sync()
    sampled = engine.generate(PROMPTS, Sampling(0.8, 8), KEYS)
    assert [len(fake.requests) for fake in fakes] == [3, 3]
    names = [version.name for version in engine.known]
    for fake in fakes:
        assert set(fake.adapters) == set(names[-2:])
    assert {path.name for path in engine.publisher.home.iterdir()} == set(names)
    assert engine.generate(PROMPTS[::-1], Sampling(0.8, 8), KEYS[::-1])[::-1] == sampled
    assert {c.policy_version for c in sampled} == {policy.version}
    seeds = [request["sampling_params"]["seed"] for fake in fakes for request in fake.requests]
    assert len(set(seeds)) == len(KEYS)
    engine.close()
    assert not any(fake.adapters for fake in fakes)
    assert not engine.publisher.home.exists()


def test_a_server_shows_whose_an_adapter_is() -> None:
    """One of a run that was killed is still there under its name when the run is taken up."""
    model = load_recipe("tiny").model
    fake = FakeServer(load_policy(model, 0))
    sets = ["rollout.engine=vllm_server", f"rollout.vllm.urls=[{fake.url}]"]
    with open_runtime(load_recipe("tiny", sets), "20261123-071757-mv4j"):
        (first,) = fake.adapters
        with open_runtime(load_recipe("tiny", sets), "20261123-071757-mv4j"):
            assert len(fake.adapters) == 2
    assert re.fullmatch(r"20261123-071757-mv4j-\w{6}-v1", first)
    fake.http.shutdown()
    fake.http.server_close()


def test_a_version_that_one_server_does_not_take_stays_on_none(policy, fakes) -> None:
    engine = engine_of(policy, *fakes)
    engine.sync()
    fakes[1].loads = False
    with pytest.raises(UserError, match="does not load adapters"):
        engine.sync()
    assert [*fakes[0].adapters] == [engine.known[-1].name]
    engine.close()
    assert not fakes[0].adapters


def test_a_stop_keeps_what_has_come_and_waits_for_nothing(policy, fakes, monkeypatch) -> None:
    engine = engine_of(policy, fakes[0])
    whole = engine.generate(PROMPTS, Sampling(0.8, 8), KEYS)
    monkeypatch.setattr("scrpo_cli.rollout.vllm_server.AT_A_TIME", 2)
    held, kept, asked = threading.Event(), {}, len(fakes[0].requests)
    fakes[0].spoil = lambda answer: answer if len(fakes[0].requests) == asked + 1 else held.wait(60) and answer

    def keep(found: Any) -> None:
        kept.update(found)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.generate(PROMPTS, Sampling(0.8, 8), KEYS, keep)
    assert not held.is_set()
    assert kept == {row: whole[row] for row in kept}
    assert len(kept) == 1
    held.set()
    assert len(fakes[0].requests) <= asked + 4, "at most what two threads had begun"


def test_the_probe_passes_and_finds_a_replica_that_lags(policy, fakes) -> None:
    engine = engine_of(policy, *fakes)
    probe = Probe(engine, policy, 0.8)
    engine.sync()
    assert probe.check()["sync/gap"] < 1e-5
    moved(policy)
    engine.sync()
    fakes[1].adapters[engine.current.name] = fakes[1].adapters[engine.known[-2].name]
    with pytest.raises(RunError, match=r"old weights") as error:
        probe.check()
    assert fakes[1].url in error.value.where, "the one that lags"


def named(answer: dict[str, Any]) -> dict[str, Any]:
    """As vLLM 0.31 says it."""
    for choice in answer["choices"]:
        for at in choice["logprobs"]["content"]:
            for each in (at, *at["top_logprobs"]):
                each["token"] = f"token_id:{each.pop('token_id')}"
    return answer


def test_scores_are_the_trainers_of_vllm_0_31_too(policy, fakes) -> None:
    fakes[0].spoil = named
    test_scores_are_the_trainers(policy, fakes)


def test_scores_are_the_trainers(policy, fakes) -> None:
    engine = engine_of(policy, fakes[0])
    rows = [([5, 6, 7], [0, 3, 9]), ([8], [1])]
    want = TransformersEngine(policy).score(rows)
    assert np.concatenate(engine.score(rows), axis=1) == pytest.approx(np.concatenate(want, axis=1), abs=1e-5)


@pytest.mark.parametrize(
    ("spoil", "what"),
    [
        (lambda answer: answer | {"model": "base"}, "answered with base"),
        (lambda answer: answer["choices"][0]["logprobs"]["content"].pop() and answer, "not those of its tokens"),
        (lambda answer: answer["choices"][0].pop("logprobs") and answer, "not those of its tokens"),
    ],
)
def test_answers_that_cannot_be_trusted_stop(policy, fakes, spoil, what: str) -> None:
    engine = engine_of(policy, fakes[0])
    fakes[0].spoil = spoil
    with pytest.raises(RunError, match=what):
        engine.generate(PROMPTS[:1], Sampling(1.0, 4), KEYS[:1])


def test_a_server_that_loads_no_adapters_says_how_to_start_it(policy, fakes) -> None:
    fakes[0].loads = False
    with pytest.raises(UserError, match="does not load adapters at run time") as caught:
        engine_of(policy, fakes[0]).sync()
    assert "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1" in caught.value.fix


def test_a_server_that_forgot_the_adapter_is_an_error_and_not_the_base_model(policy, fakes) -> None:
    engine = engine_of(policy, fakes[0])
    engine.sync()
    fakes[0].adapters.clear()
    with pytest.raises(RunError, match="does not exist"):
        engine.generate(PROMPTS[:1], Sampling(1.0, 4), KEYS[:1])


def test_what_a_server_would_cut_off_is_refused(policy, fakes) -> None:
    with pytest.raises(RunError, match="has room for 64"):
        engine_of(policy, fakes[0]).generate(PROMPTS[:1], Sampling(1.0, 62), KEYS[:1])


def test_the_files_go_where_the_servers_see_them(policy, fakes, tmp_path) -> None:
    engine = engine_of(policy, fakes[0], adapters=str(tmp_path))
    engine.sync()
    assert engine.current.directory.is_relative_to(tmp_path)
    assert engine.publisher.home.stat().st_mode & 0o055 == 0o055
    engine.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cfg", [{"engine": "vllm_server"}, {"engine": "vllm"}])
def test_what_is_not_there_is_said_before_anything_is_sampled(policy, cfg, monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"No server is named|vLLM is not installed"):
        open_engine(RolloutConfig.model_validate(cfg), policy, {})


@pytest.mark.parametrize("lora", [{"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["norm"]}])
def test_adapters_that_vllm_computes_otherwise_are_refused(policy, fakes, lora: dict[str, Any]) -> None:
    for key, value in lora.items():
        setattr(policy.model.active_peft_config, key, value)
    with pytest.raises(UserError, match="vLLM cannot sample with"):
        engine_of(policy, fakes[0])
    assert fakes[0].adapters == {}
