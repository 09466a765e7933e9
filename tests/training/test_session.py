"""What a training run reads of other runs: only answers whose token ids mean the same."""

import copy
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from processes import small
from run_rows import execute
from tests_tokenizer import TOKENIZER
from transformers import AutoModelForCausalLM

from scrpo_cli.assets import embedded_model_dir
from scrpo_cli.errors import UserError
from scrpo_cli.pool.db import Database
from scrpo_cli.pool.queries import start_run
from scrpo_cli.pool.records import unpack
from scrpo_cli.recipe.models import Recipe
from scrpo_cli.rollout.chat import Chat
from scrpo_cli.training.session import RunLibrary


def with_template(template: str) -> Chat:
    tokenizer = copy.copy(TOKENIZER)
    tokenizer.chat_template = template
    return Chat(tokenizer)


def test_a_fingerprint_is_that_of_vocabulary_template_and_prefill():
    plain = Chat(TOKENIZER)
    template = TOKENIZER.chat_template
    assert plain.fingerprint == with_template(template).fingerprint
    more = copy.deepcopy(TOKENIZER)
    more.add_tokens(["<new>"])
    assert len({plain.fingerprint, with_template(template + " ").fingerprint, Chat(more).fingerprint}) == 3


@pytest.fixture
def library(tmp_path):
    db = Database.open(f"sqlite:///{tmp_path / 'scrpo.db'}")
    for run_id, summary in {"same": {"fingerprint": "a"}, "other": {"fingerprint": "b"}, "old": {}}.items():
        start_run(db, command="collect", recipe=Recipe(), directory="", model="m", run_id=run_id, summary=summary)
    return RunLibrary(db, "mine", "a")


def test_runs_of_another_tokenizer_are_refused_and_runs_that_do_not_say_are_named(library):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert library.attempts(["same"]) == library.attempts([]) == []
    with pytest.raises(UserError, match=r"run other .* than run mine's"):
        library.attempts(["same", "other"])
    assert library.attempts(["other"], texts_only=True) == []
    with pytest.warns(UserWarning, match="run old does not say which tokenizer"):
        assert library.attempts(["old"]) == []


def test_what_is_collected_is_fitted_at_temperature_1_and_only_with_the_same_tokenizer(scrpo_process, tmp_path):
    """The sampling temperature is another: the loss of SFT is that of the model's own log-probs."""
    sizes = small(task__train__limit=8, rollout__temperature=0.6)
    assert scrpo_process("collect", "--recipe", "tiny-grpo", *sizes).code == 0
    ((run, summary),) = execute(tmp_path, "SELECT id, summary_json FROM run")
    assert json.loads(summary)["fingerprint"] == Chat(TOKENIZER).fingerprint
    sft = {"name": "sft", "runs": f"[{run}]", "epochs": 1, "per_problem": 4}
    fit = (
        "train",
        "--json",
        *sizes,
        *(word for key, value in sft.items() for word in ("--set", f"method.{key}={value}")),
    )
    trained = scrpo_process(*fit)
    assert trained.code == 0, trained.err
    first = json.loads(Path(trained.json["metrics"]).read_text().splitlines()[1])
    right = execute(
        tmp_path, "SELECT prompt_ids, ids, packed FROM attempt WHERE phase = 'collect' AND verdict = 'correct'"
    )
    model = AutoModelForCausalLM.from_pretrained(embedded_model_dir(), dtype=torch.float32)
    assert first["train/loss"] == pytest.approx(mean_surprise(model, right), rel=1e-3)
    execute(tmp_path, "UPDATE run SET summary_json = ?", json.dumps({"fingerprint": "another"}))
    refused = scrpo_process(*fit)
    assert refused.code == 2, refused.err
    assert f"The answers of run {run} were sampled with another tokenizer" in refused.err


def mean_surprise(model, rows) -> float:
    """-log softmax(logits) of the answers' tokens, one row at a time."""
    found = []
    for *columns, packed in rows:
        prompt, answer = (unpack({"ids": ids, "packed": packed}, "ids").astype(int) for ids in columns)
        with torch.no_grad():
            logits_LV = model(torch.tensor([[*prompt, *answer]])).logits[0, len(prompt) - 1 : -1]
        found += (-logits_LV.log_softmax(-1))[range(len(answer)), answer].tolist()
    return float(np.mean(found))
