"""`scrpo runs compare` and `--against`: two files of answers, scored and compared with each other."""

import json

import pytest
from run_rows import execute

RIGHT, WRONG = "\\boxed{2}", "\\boxed{3}"


@pytest.fixture
def score(scrpo, tmp_path):
    """Score made-up answers (one character an answer: x is right) to problems of some benchmarks; the run's id."""

    def run(answers, *options, second=None, offset=0):
        rows = []
        for benchmark, outcomes in answers.items():
            for n, outcome in enumerate(outcomes):
                row = {"id": f"{benchmark}{n + offset}", "problem": "1+1=?", "answer": "2", "benchmark": benchmark}
                rows.append(row | {"response": RIGHT if outcome == "x" else WRONG})
                if second:
                    rows.append(row | {"response": RIGHT if second[n] == "x" else WRONG, "turn": 2})
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        scored = scrpo("eval", "--from-jsonl", "rows.jsonl", *options, "--json")
        assert scored.code == 0, scored.err
        return scored.json

    return run


def test_two_runs(scrpo, score):
    # 24 problems: b alone solves 10 and a alone 1: McNemar 2 P(X <= 1), X of Binomial(11, 1/2)
    a, b = score({"one": "x" * 6 + "." * 18})["run"], score({"one": "." + "x" * 15 + "." * 8})["run"]
    found = scrpo("runs", "compare", a, b, "--json").json
    change = found["benchmarks"]["one"]
    assert (found["first"], found["second"]) == (a, b)
    assert (change["a"], change["b"], change["shared"]) == (0.25, 0.625, 24)
    assert change["p"] == pytest.approx(2 * 12 / 2**11)
    assert (change["test"], change["verdict"], change["warnings"]) == ("McNemar, exact", "higher", [])
    text = scrpo("runs", "compare", a, b).out
    for part in ("one, 24 problems; p by McNemar, exact", "+37.5", "higher", f"b: run {b}"):
        assert part in text
    assert scrpo("runs", "compare", b, a, "--json").json["benchmarks"]["one"]["verdict"] == "lower"


def test_an_evaluation_says_the_same_as_the_comparison(scrpo, score):
    a = score({"one": "x" * 6 + "." * 6})["run"]
    b = score({"one": "x" * 7 + "." * 5}, "--against", a)
    assert b["against"] == scrpo("runs", "compare", a, b["run"], "--json").json["benchmarks"]
    assert b["against"]["one"]["verdict"] == "the data cannot tell these apart"


def test_several_benchmarks_are_adjusted_for(scrpo, score):
    # seven of seven changed: p = 2 / 2^7 = 0.016 alone, 4 x as much of four benchmarks
    names = ("one", "two", "three", "four")
    a = score(dict.fromkeys(names, "." * 20))["run"]
    b = score({name: "x" * 7 * (name == "one") + "." * (20 - 7 * (name == "one")) for name in names})["run"]
    change = scrpo("runs", "compare", a, b, "--json").json["benchmarks"]["one"]
    assert (change["p"], change["p_holm"]) == pytest.approx((2 / 2**7, 8 / 2**7))
    assert change["verdict"] == "higher taken alone, but not as one of 4 benchmarks"
    text = scrpo("runs", "compare", a, b).out
    assert "4 benchmarks were compared" in text
    assert "first answers: higher taken alone" in text


def test_second_answers_are_compared_as_well(scrpo, score):
    a = score({"one": "x" * 4 + "." * 8}, second="x" * 4 + "." * 8)["run"]
    b = score({"one": "x" * 4 + "." * 8}, second="x" * 12)["run"]
    change = scrpo("runs", "compare", a, b, "--json").json["benchmarks"]["one"]
    assert change["verdict"] == "the data cannot tell these apart"
    assert {name: number["difference"] for name, number in change["turns"].items()} == pytest.approx(
        {"t2": 2 / 3, "delta": 2 / 3, "i2c": 2 / 3, "c2i": 0, "fix_rate": 1}
    )
    assert change["turns"]["delta"]["verdict"] == "higher"


def test_only_shared_problems_count_and_that_is_said(scrpo, score):
    a, b = score({"one": "x..."})["run"], score({"one": "...."}, offset=2)["run"]
    change = scrpo("runs", "compare", a, b, "--json").json["benchmarks"]["one"]
    assert (change["shared"], change["difference"]) == (2, 0)
    assert change["warnings"] == ["Of 4 and 4 problems they share 2; only those count."]


def test_what_else_differs_is_said(scrpo, score, tmp_path):
    a, b = score({"one": "x..."})["run"], score({"one": "x..."})["run"]
    ((stored,),) = execute(tmp_path, "SELECT metrics_json FROM evaluation WHERE run_id = ?", a)
    metrics = json.loads(stored)
    changes = ({"grader": "another"}, {"temperature": 0.0}, {})
    said = ("Their graders differ (another and ", None, f"The protocol of {a} is not stored")
    for change, words in zip(changes, said):
        protocol = metrics["protocol"] | change if change else {}
        execute(
            tmp_path,
            "UPDATE evaluation SET metrics_json = ? WHERE run_id = ?",
            json.dumps(metrics | {"protocol": protocol}),
            a,
        )
        warnings = scrpo("runs", "compare", a, b, "--json").json["benchmarks"]["one"]["warnings"]
        assert [w.startswith(words) for w in warnings] == [True] if words else warnings == []


def test_nothing_to_compare(scrpo, score):
    a, b = score({"one": "x."})["run"], score({"two": "x."})["run"]
    refused = scrpo("runs", "compare", a, b)
    assert refused.code == 2
    assert f"Run {a} shares no scored problem with {b}." in refused.err
    alone = scrpo("runs", "compare", a)
    assert alone.code == 2
    assert "no evaluation before and after training" in alone.err


def test_a_run_is_not_compared_with_itself(scrpo, score):
    run = score({"one": "x."})["run"]
    refused = scrpo("runs", "compare", run, "last")
    assert (refused.code, refused.err.splitlines()[0]) == (2, "Error: A run is compared with itself.")
