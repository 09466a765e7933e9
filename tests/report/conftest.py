"""A recorded run and its report, as the command line makes them."""

import json
import re
from types import SimpleNamespace

import pytest
from processes import run_scrpo, small
from run_rows import execute

SETS = small(
    rollout__max_tokens=128,
    optim__steps=3,
    method__reflect_every=1,
    method__filter__mode="none",
    method__kl__beta=0.01,
    name="'<img src=x onerror=alert(1)>'",
)
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
DATA = re.compile(r'<script type="application/json" id="data">(.*?)</script>', re.DOTALL)


def page_data(html):
    """What the page's script reads."""
    return json.loads(DATA.search(html)[1])


@pytest.fixture(scope="session")
def trained(scrpo_server, tmp_path_factory):
    """A folder with the database of a run of three steps, first answers and reflections, and its report. Markup is in
    every problem and in every answer to the test problems.
    """
    folder = tmp_path_factory.mktemp("report")
    run = run_scrpo(["train", "--recipe", "tiny", *SETS, "--json"], folder).json["run"]
    execute(folder, "UPDATE problem SET text = text || ?", EVIL)
    execute(folder, "UPDATE attempt SET text = text || ?, extracted = ? WHERE phase LIKE 'eval:%'", EVIL, EVIL)
    done = run_scrpo(["report", run, "-o", "report.html", "--json", "--debug"], folder)
    assert done.code == 0, done.err
    html = (folder / "report.html").read_text()
    return SimpleNamespace(folder=folder, run=run, html=html, data=page_data(html), answer=done.json)
