"""How often a clip would take hold of an on-policy step if its old log-probs were those of the sampler; the figure of
docs/engines.md.

    python tools/clip_noise.py                 # the tiny model in bfloat16, on a CPU
    python tools/clip_noise.py --dtype float32

Nothing has been updated, so every ratio should be 1. The sampler decodes in batches with a cache, and the trainer reads
whole rows: in 16 bits they round otherwise.
"""

from __future__ import annotations

import argparse

import numpy as np

from scrpo_cli.methods.gspo import GspoConfig
from scrpo_cli.recipe.load import load_recipe
from scrpo_cli.rollout.groups import Origin, sample_requests
from scrpo_cli.training.logprobs import completion_logprobs
from scrpo_cli.training.runtime import Runtime, open_runtime
from scrpo_cli.types import Completion, SampleRequest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--answers", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=10)
    options = parser.parse_args()
    clip = GspoConfig().clip
    recipe = load_recipe("tiny", [f"model.dtype={options.dtype}", "model.device=cpu", "model.threads=1"])
    shares = []
    with open_runtime(recipe) as runtime:
        for seed in range(options.seeds):
            ratio_N = ratios(runtime, sampled(runtime, options.answers, seed))
            shares.append(np.mean((ratio_N < 1 - clip.low) | (ratio_N > 1 + clip.high)))
    low, middle, high = np.percentile(shares, [0, 50, 100])
    beside = (
        f"{middle:.0%} of the rows (median of {options.seeds} batches of {options.answers}, {low:.0%} to {high:.0%})"
    )
    print(f"{options.dtype}: GSPO's clip, {clip.low:g} and {clip.high:g}, would take hold of {beside}")


def sampled(runtime: Runtime, answers: int, seed: int) -> list[Completion]:
    """Answers to as many problems, before any update."""
    problems = runtime.task.problems(runtime.recipe.task.train)[:answers]
    requests = [SampleRequest(p, runtime.task.messages(p), 1) for p in problems]
    origin = Origin("clip", seed, 1, "rollout")
    return [
        c for group in sample_requests(runtime.engine, runtime.chat, requests, runtime.sampling, origin) for c in group
    ]


def ratios(runtime: Runtime, completions: list[Completion]) -> np.ndarray:
    """(N,) the geometric mean over an answer's tokens of pi / pi_sampled (GSPO, arXiv 2507.18071, Eq. 7)."""
    rows = [(c.prompt_ids, c.ids) for c in completions]
    own, _ = completion_logprobs(
        runtime.policy.model, rows, runtime.recipe.rollout.temperature, runtime.recipe.optim.logits_chunk
    )
    ends = np.cumsum([len(c.ids) for c in completions])[:-1]
    parts = np.split(own.detach().double().numpy(), ends)
    return np.exp([np.mean(mine - np.array(c.logprobs)) for mine, c in zip(parts, completions, strict=True)])


if __name__ == "__main__":
    main()
