"""`scrpo power`: assumed variances, and variances measured on stored runs."""

import json

import pytest


def test_what_thirty_problems_show(scrpo):
    found = scrpo("power", "--problems", 30, "--samples", 64, "--effect", 2, "--json").json
    assert found["paired"]["smallest"] == pytest.approx(0.102, abs=0.001)
    assert found["paired"]["problems_needed"] == 733
    text = scrpo("power", "--problems", 30, "--samples", 64, "--effect", 2).out
    for part in ("10.2 points", "733", "No number of samples shows this difference on so few problems"):
        assert part in text


def test_variances_of_stored_runs(scrpo, tmp_path):
    def score(*rights):
        """Runs of four answers a problem, of which so many are right."""
        rows = [
            {"id": n, "problem": "1+1=?", "answer": "2", "sample": k, "response": f"\\boxed{{{2 if k < right else 3}}}"}
            for n, right in enumerate(rights)
            for k in range(4)
        ]
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        scored = scrpo("eval", "--from-jsonl", "rows.jsonl", "--json")
        assert scored.code == 0, scored.err
        return scored.json["run"]

    a, b = score(0, 2, 4), score(4, 2, 0)
    line = ("power", "--problems", 3, "--samples", 4, "--from-run", a, "--json")
    variation = scrpo(*line, "--against", b).json["variation"]
    # means 0, 1/2, 1: variance 1/4; within (0 + 1/4 x 4/3 + 0) / 3 = 1/9, a quarter of it noise; differences 1, 0, -1
    assert variation == pytest.approx({"between": 1 / 4 - 1 / 36, "within": 1 / 9, "moved": 1 - 2 / 36})
    assert scrpo(*line).json["variation"]["moved"] == pytest.approx(0.2 * (1 / 4 - 1 / 36))  # correlation 0.9
    refused = scrpo("power", "--problems", 3, "--from-run", a, "--benchmark", "other")
    assert refused.code == 2
    assert "no evaluation 'other'" in refused.err


def test_one_run_is_missing(scrpo):
    refused = scrpo("power", "--problems", 30, "--against", "last")
    assert refused.code == 2
    assert "--from-run" in refused.err
