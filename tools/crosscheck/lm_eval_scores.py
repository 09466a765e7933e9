"""lm-evaluation-harness's verdicts. Runs in an environment with lm-eval[math] (requirements-lm_eval.txt).

GSM8K: the filters and the metric of its task `gsm8k`, read from the installed YAML; `flexible-extract` is the verdict,
`strict-match` is kept beside it. All other sources: `process_results` of its task family `minerva_math` (which
`minerva_math500` uses); `math_verify` is the verdict, `exact_match` is kept beside it, and so is the exact match of its
task `aime`, the string comparison of `hendrycks_math` on the last box.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from deadline import Scorer, main
from formats import bare

PACKAGES = ("lm-eval", "math-verify", "latex2sympy2-extended", "antlr4-python3-runtime", "sympy")


def make() -> Scorer:
    import lm_eval.tasks

    tasks = Path(lm_eval.tasks.__file__).parent
    gsm8k = _gsm8k(tasks / "gsm8k" / "gsm8k.yaml")
    minerva, aime = _utils(tasks / "minerva_math"), _utils(tasks / "aime")

    def score(row: Mapping[str, Any]) -> dict[str, Any]:
        return gsm8k(row) if row["source"] == "gsm8k" else _math(row, minerva, aime)

    return score


def _gsm8k(path: Path) -> Scorer:
    """The task's own filters and metric, without its data set."""
    import yaml
    from lm_eval.api.metrics import exact_match_hf_evaluate
    from lm_eval.filters import build_filter_ensemble

    task = yaml.safe_load(path.read_text())
    options = {k: v for k, v in task["metric_list"][0].items() if k.startswith(("ignore", "regexes"))}
    filters = {
        chain["name"]: [
            step
            for function in chain["filter"]
            for step in build_filter_ensemble(
                chain["name"], [(function["function"], {k: v for k, v in function.items() if k != "function"})]
            ).filters
        ]
        for chain in task["filter_list"]
    }

    def score(row: Mapping[str, Any]) -> dict[str, Any]:
        answers, matches = {}, {}
        for name, steps in filters.items():
            responses: Any = [[row["response"]]]
            for step in steps:
                responses = list(step().apply(responses, [{}]))
            answers[name] = str(responses[0])
            found = exact_match_hf_evaluate([answers[name]], [row["reference"]], **options)
            matches[name] = bool(found["exact_match"])
        strict = {"strict-match": matches["strict-match"]}
        return {"verdict": matches["flexible-extract"], "extracted": answers["flexible-extract"], "others": strict}

    return score


def _math(row: Mapping[str, Any], minerva: ModuleType, aime: ModuleType) -> dict[str, Any]:
    """OlympiadBench's reference solutions have no box, so there the gold is the answer in one."""
    boxed = "\\boxed" in row["reference"]
    solution = row["reference"] if boxed else f"The answer is $\\boxed{{{bare(row['answer'])}}}$."
    gold = minerva.normalize_final_answer(minerva.remove_boxed(minerva.last_boxed_only_string(solution)))
    found = minerva.process_results({"solution": solution, "answer": gold}, [row["response"]])
    plain = aime.process_results({"answer": row["answer"]}, [row["response"]])["exact_match"]
    others = {"minerva_math exact_match": bool(found["exact_match"]), "aime exact_match": bool(plain)}
    parsed = [str(expression) for expression in minerva.parse(row["response"])]
    return {"verdict": bool(found["math_verify"]), "extracted": " | ".join(parsed)[:300], "others": others}


def _utils(folder: Path) -> ModuleType:
    """A task's utils.py, which lm-eval too loads by its path."""
    spec = importlib.util.spec_from_file_location(f"{folder.name}_utils", folder / "utils.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main(make, PACKAGES)
