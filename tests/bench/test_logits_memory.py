"""How many arrays of the logits' size an update holds at once, as `jobs.budget` counts them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from measuring import MIB, peak
from torch.utils.checkpoint import checkpoint

from scrpo_cli.jobs.budget import LOGITS
from scrpo_cli.training.head import TargetLogprobs
from scrpo_cli.training.logprobs import chunk_divergences

C, V, H = 512, 65_536, 8


def update(kind: str, dtype: torch.dtype) -> Callable[[], Callable[[], None]]:
    """Forward and backward through the output layer."""

    def prepared() -> Callable[[], None]:
        hidden_CH = torch.randn(C, H, dtype=dtype, requires_grad=True)
        reference_CH, weight_VH = torch.randn(C, H, dtype=dtype), torch.randn(V, H, dtype=dtype)
        targets_C = torch.randint(0, V, (C,))

        def work() -> None:
            if not kind:
                TargetLogprobs.apply(hidden_CH, weight_VH, None, targets_C, 1.0)[0].sum().backward()
                return
            sides = (hidden_CH, reference_CH, targets_C, weight_VH, None)
            logp_C, _, divergence_C = checkpoint(chunk_divergences, *sides, kind, 1.0, use_reentrant=False)
            (logp_C + divergence_C).sum().backward()

        return work

    return prepared


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [*LOGITS])
def test_as_many_arrays_as_the_estimate_says(kind: str, dtype: torch.dtype) -> None:
    added = peak(update(kind, dtype))["added"] * MIB
    assert added / (C * V * 4) == pytest.approx(LOGITS[kind], abs=0.4)
