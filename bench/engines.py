"""Engines: tokens per second of our decode loop, of transformers' own generate, of our vLLM engine, and of vLLM alone.

The same model with the same adapter, the same number of prompts and tokens. `vLLM` is what a user would write: an LLM
with the adapter, without our process watch, row seeds or text. vLLM pins torch, so it has an environment of its own,
and all are measured there, side by side.

    python bench/engines.py [--vllm-python PYTHON] [--compiled] [--seconds N] [--quick]
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import Grid, clock, machine, options, report, shown, spread
from models import SHAPES, build
from sides import SIZE, our_policy, ratio, recipe_of, rounds

from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout import transformers_engine
from scrpo_cli.rollout.base import RowKey, Sampling
from scrpo_cli.rollout.engines import open_engine
from scrpo_cli.training.policy import Policy, source_of

VLLM_PYTHON = Path(".venv-vllm/bin/python")
LOADS = ((8, 128, 64), (16, 32, 128))
"""Groups, prompt tokens, tokens of an answer."""
BASE = {"vLLM engine": "vLLM", "transformers engine": "transformers generate"}
"""What a contender is compared with."""
Sampled = Callable[[Sequence[Sequence[int]], int], int]
"""(prompts, tokens of an answer) to the number of tokens that were sampled."""


def ours(engine: Any) -> Sampled:
    """An engine of ours; answers end where the limit is."""
    engine.stop_ids, asked = [], iter(range(1_000_000))

    def sample(prompts: Sequence[Sequence[int]], tokens: int) -> int:
        step = next(asked)
        keys = [RowKey(0, step, "bench", i) for i in range(len(prompts))]
        return sum(len(row.ids) for row in engine.generate(prompts, Sampling(1.0, tokens), keys))

    return sample


def unmerged(engine: Any) -> Sampled:
    """Ours with the adapter beside the weights and not in them, as it has to be in 16 bits."""
    sample = ours(engine)

    def beside(prompts: Sequence[Sequence[int]], tokens: int) -> int:
        merged, transformers_engine.merged = transformers_engine.merged, nullcontext  # type: ignore[assignment]
        try:
            return sample(prompts, tokens)
        finally:
            transformers_engine.merged = merged

    return beside


def generate(policy: Policy) -> Sampled:
    """transformers' generate on the policy's module: prompts of one length need no padding."""

    @torch.inference_mode()
    def sample(prompts: Sequence[Sequence[int]], tokens: int) -> int:
        ids = torch.tensor(prompts, device=policy.device)
        more = {"attention_mask": torch.ones_like(ids), "eos_token_id": None, "pad_token_id": 0, "top_k": 0}
        out = policy.model.generate(input_ids=ids, do_sample=True, temperature=1.0, max_new_tokens=tokens, **more)
        return int(out[:, ids.shape[1] :].numel())

    return sample


def bare_vllm(llm: Any, adapter: Path, seeded: bool) -> Sampled:
    """`seeded`: with a seed a row, as our engine asks for."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    request = LoRARequest("bench", 1, str(adapter))
    plain = {"temperature": 1.0, "ignore_eos": True, "logprobs": 0, "detokenize": False}

    def sample(prompts: Sequence[Sequence[int]], tokens: int) -> int:
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        seeds = range(len(prompts)) if seeded else [None] * len(prompts)
        wanted = [SamplingParams(**plain, max_tokens=tokens, seed=seed) for seed in seeds]
        outputs = llm.generate(asked, wanted, lora_request=request, use_tqdm=False)
        return sum(len(out.outputs[0].token_ids) for out in outputs)

    return sample


@contextmanager
def contenders(recipe: Recipe, directory: Path) -> Iterator[dict[str, Sampled]]:
    """What this interpreter can run."""
    policy = our_policy(recipe)
    own = open_engine(recipe.rollout.model_copy(update={"engine": "transformers"}), policy, {})
    found = {"transformers engine": ours(own), "transformers engine, not merged": unmerged(own)}
    found["transformers generate"] = generate(policy)
    if importlib.util.find_spec("vllm") is None:
        yield found
        return
    from vllm import LLM

    policy.model.save_pretrained(directory / "adapter")
    engine = open_engine(recipe.rollout, policy, source_of(recipe.model))
    try:
        cfg, rank = recipe.rollout.vllm, recipe.model.lora.r
        llm = LLM(
            model=recipe.model.name,
            dtype=str(policy.model.dtype).removeprefix("torch."),
            enable_lora=True,
            max_loras=1,
            max_lora_rank=rank,
            enforce_eager=cfg.eager,
            gpu_memory_utilization=cfg.gpu_memory,
            **({} if policy.device.type == "cuda" else {"enable_chunked_prefill": False}),  # CPUs: or seeds fail
        )
        bare = {"vLLM": False, "vLLM, a seed a row": True}
        yield {**found, "vLLM engine": ours(engine)} | {
            name: bare_vllm(llm, directory / "adapter", seeded) for name, seeded in bare.items()
        }
    finally:
        engine.close()


def measured(
    recipe: Recipe, directory: Path, vocabulary: int, seconds: float, loads: Sequence[tuple[int, int, int]] = LOADS
) -> list[dict[str, Any]]:
    """Tokens per second by load and contender, a value a round."""
    rng = np.random.default_rng(0)

    def speed(sample: Sampled, groups: int, prompt: int, tokens: int) -> float:
        drawn = rng.integers(1, vocabulary - 1, (groups, prompt)).tolist()  # new ones: no cache knows them
        prompts = [ids for ids in drawn for _ in range(SIZE)]
        start = clock()
        sampled, seconds = sample(prompts, tokens), clock() - start
        if sampled != len(prompts) * tokens:  # answers that end early leave a smaller batch, which is slower
            raise RuntimeError(f"{sampled} tokens were sampled and not {len(prompts) * tokens}")
        return sampled / seconds

    with contenders(recipe, directory) as sides:
        return [
            {"groups": load[0], "prompt": load[1], "tokens": load[2], "speeds": found}
            for load in loads
            for found in [rounds({n: partial(speed, s, *load) for n, s in sides.items()}, seconds / len(loads))]
        ]


def grid(found: Sequence[dict[str, Any]], title: str) -> Grid:
    rows = []
    for load in found:
        speeds = load["speeds"]
        name = f"{load['groups']} x {SIZE}, {load['prompt']} : {load['tokens']}"
        for engine, each in speeds.items():
            base = BASE.get(engine, "")
            beside = shown(ratio(each, speeds[base]), 2) if base in speeds else ""
            rows.append([name, engine, shown(spread(each), 0), beside, base if beside else "", str(len(each))])
    columns = ["rows, prompt : completion", "engine", "tokens/s", "ratio", "to", "rounds"]
    return Grid(title, columns, rows)


def elsewhere(python: Path) -> int:
    """This section again, by the interpreter that has vLLM."""
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    return subprocess.run([str(python), *sys.argv], env={**settings, **os.environ}).returncode


def main() -> int:
    parser = options(__doc__)
    parser.add_argument("--vllm-python", type=Path, default=VLLM_PYTHON, help=f"who has vLLM (default {VLLM_PYTHON})")
    parser.add_argument("--compiled", action="store_true", help="vLLM compiled and not eager: starts more slowly")
    parser.add_argument("--seconds", type=float, default=160, help="for the measurements (default 160)")
    args = parser.parse_args()
    here = importlib.util.find_spec("vllm") is not None
    if not here and args.vllm_python.exists():
        return elsewhere(args.vllm_python)
    if not here:
        print(f"vLLM is not measured: there is no {args.vllm_python}. `make test-vllm` makes that environment;")
        print("--vllm-python names another one.")
    torch.set_num_threads(1)
    before, shape = machine(), "tiny"
    sets = [
        "model.device=auto",
        f"rollout.engine={'vllm' if here else 'transformers'}",
        f"rollout.vllm.eager={not args.compiled}",
    ]
    with tempfile.TemporaryDirectory() as directory:
        recipe = recipe_of(build(shape, Path(directory) / "model"), 2048, True, sets)
        vocabulary = SHAPES[shape].vocab_size
        found = measured(recipe, Path(directory), vocabulary, 0 if args.quick else args.seconds)
    kind = f"; vLLM {'compiled' if args.compiled else 'eager'}" if here else ""
    title = f"{shape}, sampling, medians (quartiles){kind}"
    report("engines", [grid(found, title)], {"before": before, "model": shape, "loads": found}, args.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
