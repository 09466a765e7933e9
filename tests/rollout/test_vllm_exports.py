"""What `scrpo export` writes, in vLLM: the adapter beside its base model, and the merged model. `make test-vllm`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from scrpo_cli.assets import embedded_model_dir
from scrpo_cli.jobs.adapter import write_adapter, write_merged
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.training.policy import Policy, load_policy

pytestmark = pytest.mark.vllm
PROBLEMS = ["47+38=?", "12+39-5=?", "99-17=?"]
CFG = load_recipe("tiny").model


@pytest.fixture(scope="module")
def policy() -> Policy:
    policy = load_policy(CFG, 0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in policy.trainable():
            p += 0.05 * torch.randn(p.shape, generator=generator)
    return policy


@pytest.fixture(scope="module")
def checkpoint(policy: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint")
    policy.model.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def prompts(policy: Policy) -> list[list[int]]:
    said = [[{"role": "user", "content": problem}] for problem in PROBLEMS]
    texts = [policy.tokenizer.apply_chat_template(m, add_generation_prompt=True, tokenize=False) for m in said]
    return [policy.tokenizer.encode(text, add_special_tokens=False) for text in texts]


def check(llm: Any, policy: Policy, model: Any, lora: Any = None) -> None:
    """Greedy answers, and the log-probs of their tokens, against one full pass of `model`."""
    from vllm import SamplingParams

    asked = prompts(policy)
    sampling = SamplingParams(temperature=0.0, max_tokens=16, logprobs=0)
    inputs: Any = [{"prompt_token_ids": ids} for ids in asked]
    found = llm.generate(inputs, sampling, lora_request=lora, use_tqdm=False)
    for prompt, output in zip(asked, found, strict=True):
        ids = list(output.outputs[0].token_ids)
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *ids]])).logits[0, len(prompt) - 1 : -1].double()
        ours = logits.log_softmax(-1)
        assert ours.argmax(-1).tolist() == ids
        theirs = [step[token].logprob for step, token in zip(output.outputs[0].logprobs, ids, strict=True)]
        assert theirs == pytest.approx(ours.gather(1, torch.tensor(ids)[:, None])[:, 0].tolist(), abs=1e-3)


@contextmanager
def engine(model: Path, **options: Any) -> Iterator[Any]:
    from vllm import LLM

    llm = LLM(str(model), enforce_eager=True, max_model_len=256, dtype="float32", seed=0, **options)
    try:
        yield llm
    finally:
        llm.llm_engine.engine_core.shutdown()


def test_vllm_loads_the_adapter(policy: Policy, checkpoint: Path, tmp_path: Path) -> None:
    from vllm.lora.request import LoRARequest

    write_adapter(CFG, checkpoint, tmp_path)
    with engine(embedded_model_dir(), enable_lora=True, max_lora_rank=CFG.lora.r) as llm:
        check(llm, policy, policy.model, LoRARequest("scrpo", 1, str(tmp_path)))


def test_vllm_loads_the_merged_model(policy: Policy, checkpoint: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    write_merged(CFG, checkpoint, tmp_path)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32).eval()
    with engine(tmp_path) as llm:
        check(llm, policy, merged)
