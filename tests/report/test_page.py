"""The page as a file: whole, safe, and with the numbers of the terminal."""

import json
from html.parser import HTMLParser

import pytest

from scrpo_cli.cli.app import main
from scrpo_cli.report.page import cell, data, sentence

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
"""As the fixture plants it."""


class Elements(HTMLParser):
    """Every element with its attributes, and the text of scripts."""

    def __init__(self, html):
        super().__init__()
        self.found, self.scripts = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, text):
        if self.cdata_elem == "script":
            self.scripts[-1] += text


def elements(html, tag):
    return [attributes for name, attributes in Elements(html).found if name == tag]


def test_a_report_needs_nothing_from_anywhere(trained):
    loads = [
        (tag, attributes)
        for tag, attributes in Elements(trained.html).found
        if {"src", "srcset", "data", "action"} & attributes.keys() or tag in ("link", "iframe", "object", "img", "base")
    ]
    assert loads == []
    assert all(a["href"].startswith("#") for a in elements(trained.html, "a"))
    assert "@import" not in trained.html
    assert "url(" not in "".join(part.partition("</style>")[0] for part in trained.html.split("<style")[1:])


def test_what_a_report_holds(trained):
    sections = [a["id"] for a in elements(trained.html, "section")]
    assert sections[0] == "attempts", "first of all"
    assert {"results", "pool-life", "warning-signs", "protocol", "again"} <= {*sections}
    assert "var(--c0)" in trained.html
    ids = [attributes["id"] for _, attributes in Elements(trained.html).found if "id" in attributes]
    assert len(ids) == len({*ids})
    assert "#010203" not in trained.html, "the colour that stands for the page's own"
    assert f"scrpo report {trained.run} -o report.html" in trained.html
    assert "reflect_every: 1" in trained.html
    assert trained.answer["bytes"] == len(trained.html.encode())


def test_markup_in_names_and_texts_is_text(trained):
    assert "&lt;img src=x onerror=alert(1)&gt;" in trained.html
    assert elements(trained.html, "img") == []
    assert len(elements(trained.html, "script")) == 2, "the data and the page's own"
    assert any(problem["text"].endswith(EVIL) for problem in trained.data["problems"])
    assert any(item["answer"] == EVIL for item in trained.data["items"])


def test_every_token_of_the_run_is_told(trained):
    item = next(i for i in trained.data["items"] if i["kind"] == "correction" and not i["phase"].startswith("eval"))
    lengths = [sum(n for n, _ in item["credit"]["scrpo"][name]) for name in ("advantage", "mask", "beta")]
    lengths += [len(values) for values in (item["ends"], item["logp"], item["ratio"], item["kl"]["k3"])]
    assert {*lengths} == {item["tokens"]}
    assert item["before"] in trained.data["earlier"]
    assert "the credit of the training method is not shown" not in trained.html
    assert "on 3 of them as many tokens are trained as the run recorded" in trained.html


def test_before_the_first_update_the_policy_is_the_base_model(trained):
    first = [i for i in trained.data["items"] if i["step"] == 1 and i["phase"] == "first"]
    later = [i for i in trained.data["items"] if i["step"] == 3 and "kl" in i]
    assert first
    assert max(value for item in later for value in item["kl"]["k3"]) > 1e-3, "two updates later it has moved"
    assert max(abs(value) for item in first for value in item["kl"]["k3"]) < 1e-3
    assert any(value != 1 for item in first for value in item["ratio"]), "the last policy is another one"


def test_no_model_no_scores(trained):
    file = trained.folder / "plain.html"
    arguments = ["report", trained.run, "-o", str(file), "--score", "no", "--attempts", "5"]
    with pytest.raises(SystemExit) as end:
        main([*arguments, "--db", str(trained.folder / ".scrpo/scrpo.db"), "--quiet"])
    assert end.value.code == 0
    found = json.loads(Elements(file.read_text()).scripts[0])["items"]
    assert len(found) == 5
    assert not any("kl" in item or "ratio" in item for item in found)


def test_data_cannot_end_their_element():
    text = data({"text": EVIL + "<!--\u2028"})
    assert "<" not in text
    assert json.loads(text)["text"] == EVIL + "<!--\u2028"


def test_cells_and_sentences():
    assert cell("43.2% [38.1, 48.4]") == ("43.2%", " [38.1, 48.4]")
    assert cell("[38.1, 48.4]") == ("", "[38.1, 48.4]")
    assert cell("a") == ("a", "")
    assert cell("two\nlines") == ("two\nlines", "")
    assert sentence("arms differ") == "Arms differ."
    assert sentence("Do they?") == "Do they?"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--attempts", "few"], "--attempts few"),
        (["--score", "perhaps"], "--score perhaps"),
        (["--against", "arm"], "--against"),
    ],
)
def test_bad_input_is_said_in_three_lines(trained, capsys, options, said):
    db = str(trained.folder / ".scrpo/scrpo.db")
    with pytest.raises(SystemExit) as end:
        main(["report", trained.run, "-o", "no.html", "--db", db, *options])
    error = capsys.readouterr().err
    assert end.value.code == 2
    assert said in error
    assert "fix:" in error
