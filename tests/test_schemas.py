"""What a JSON file must hold; what it may not, in thirteen ways, is one short line that names file and place."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support import REPOSITORY, put, refused

from topoflow.errors import InvalidFile
from topoflow.storage import layout, schemas

RESULTS = REPOSITORY / "results/tiny/helpful/seed_0/trajectory.json"
DEEP: Any = json.loads("[" * 900 + "]" * 900)
WHOLE = {
    "trajectory": {**json.loads(RESULTS.read_bytes()), "files": {"velocity.csv": "0" * 64}},
    "comparison": {**json.loads((REPOSITORY / "comparison/comparison.json").read_bytes()), "files": {}},
    "checkpoint": {"model": "tiny", "seed": 0, "step": 2, "name": "checkpoint-2", "kind": "whole"},
    "prompt": [{"role": "user", "content": "x"}],
}


@pytest.mark.parametrize("kind", WHOLE)
def test_what_topoflow_writes_fits_its_schema_and_what_is_of_another_type_does_not(kind: str) -> None:
    assert schemas.check(kind, "file.json", WHOLE[kind]) is WHOLE[kind]
    for value in (
        {},
        [],
        None,
        True,
        0,
        -1.5,
        float("nan"),
        10**5000,
        [[]],
        [None],
        {"a": {}},
        DEEP,
        "x" * 10**6,
    ):
        with refused(InvalidFile, path="file.json") as caught:
            schemas.check(kind, "file.json", value)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("order", float("inf")),
        ("order", "2"),
        ("diagrams", "abc"),
        ("layers", {}),
        ("layers.layer_x", {}),
        ("layers.layer_03.h1_peak_step", 1.5),
        ("layers.layer_03.h1_concentration", "0.3"),
        ("pooled.peak_step", True),
        ("claims.early_h1.verdict", "perhaps"),
        ("claims.early_h1.p", float("nan")),
        ("files.velocity.csv", 999),
    ],
)
def test_the_place_of_the_first_problem_is_named(place: str, value: object) -> None:
    facts = json.loads(json.dumps(WHOLE["trajectory"]))
    put(facts, ["files", "velocity.csv"] if place.startswith("files") else place, value)
    with refused(InvalidFile, problem=place):
        schemas.check("trajectory", "trajectory.json", facts)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, '{"a":' * 5_000, "\x00", "9" * 5_000])
def test_json_that_cannot_be_parsed_is_refused_by_name(tmp_path, text: str) -> None:
    path = tmp_path / "trajectory.json"
    path.write_text(text)
    with refused(InvalidFile, path=path):
        schemas.check("trajectory", path, layout.read_json(path))
