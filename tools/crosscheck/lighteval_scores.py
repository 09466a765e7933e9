"""lighteval's verdicts. Runs in an environment with lighteval[math] (requirements-lighteval.txt).

GSM8K: `Metrics.expr_gold_metric`, as its task `gsm8k` has it. All other sources: the extractive match within
`Metrics.pass_at_k_math`, as its task `math_500` has it; pass@1 of one sample is that score.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from deadline import Scorer, main
from formats import bare

PACKAGES = ("lighteval", "latex2sympy2-extended", "antlr4-python3-runtime", "sympy")


def make() -> Scorer:
    from lighteval.metrics.metrics import Metrics
    from lighteval.models.model_output import ModelResponse
    from lighteval.tasks.requests import Doc

    logging.disable(logging.WARNING)
    gsm8k = Metrics.expr_gold_metric.value.sample_level_fn
    math = Metrics.pass_at_k_math.value.sample_level_fn.compute_score.__self__

    def score(row: Mapping[str, Any]) -> dict[str, Any]:
        metric = gsm8k if row["source"] == "gsm8k" else math
        doc = Doc(query=row["problem"], choices=[gold(row).strip()], gold_index=0)
        value = metric.compute(doc, ModelResponse(text=[row["response"].strip()]))
        found = (doc.specific or {}).get("extracted_predictions", [])
        return {"verdict": value == 1.0, "extracted": " | ".join(map(str, found))[:300]}

    return score


def gold(row: Mapping[str, Any]) -> str:
    """The reference as the tasks' prompt functions give it; the bare answer where it has no box (OlympiadBench)."""
    if row["source"] == "gsm8k":
        return str(row["reference"])
    return f"ANSWER: {row['reference']}" if "\\boxed" in row["reference"] else f"ANSWER: ${bare(row['answer'])}$"


if __name__ == "__main__":
    main(make, PACKAGES)
