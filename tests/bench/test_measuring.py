"""Medians, facts of the machine, and the JSON file."""

from __future__ import annotations

import json
from pathlib import Path

from measuring import machine, save, shown, spread


def test_spread_by_hand() -> None:
    found = spread([4.0, 1.0, 3.0, 2.0, 10.0])
    assert found == {"median": 3.0, "q1": 2.0, "q3": 4.0, "min": 1.0, "max": 10.0, "n": 5}
    assert shown(found, 1) == "3.0 (2.0 to 4.0)"


def test_a_result_is_a_json_document_that_names_machine_and_versions(tmp_path: Path) -> None:
    path = save("race", {"machine": machine(), "speed": spread([1.0])}, tmp_path / "new")
    data = json.loads(path.read_text())
    assert path.parent == tmp_path / "new"
    assert path.name.startswith("race-")
    assert data["machine"]["cores"] >= 1
    assert {"torch", "transformers", "peft"} <= data["machine"]["versions"].keys()
