"""The note of a run: its first line says what moves, and its table shows how far each claim climbed."""

import re
from typing import Any

import numpy as np
from mlflow.utils.validation import MAX_TAG_VAL_LENGTH
from support import plant_states

from topoflow import storage
from topoflow.config.pooling import Pooling
from topoflow.dynamics.claims.reading import plain_table
from topoflow.finished import dominated
from topoflow.storage.layout import Run
from topoflow.study.stages import reporting
from topoflow.tracking.note import Page, rivals, verdict_table, write_comparison_note, write_note

PAGE = Page("0", "ab12")
RATE = "not supported beyond the learning rate"


def claim(name: str, homology: str, verdict: str, *labels: str) -> dict:
    numbers = dict.fromkeys(("value", "low", "high", "p"))
    steps = [("moves", "passed"), ("the learning rate", verdict)]
    words = {"statement": f"{name} {homology}", "statistic": "a share", "rule": "if p", "steps": steps}
    return {"claim": name, "homology": homology, "verdict": verdict, "labels": [*labels], **words, **numbers}


def named(*claims: dict) -> dict:
    """By name and sorted by it, as JSON files hold claims."""
    return dict(sorted((f"{it['claim']}_{it['homology']}_{it['labels']}", it) for it in claims))


CLAIMS = named(
    *(claim("moves", homology, "supported") for homology in ("H1", "H0")),
    claim("early", "H1", RATE), claim("early", "H0", "explained by scale"),
    *(claim("calm", homology, "not supported") for homology in ("H1", "H0")),
    *(claim("leads", homology, "cannot tell") for homology in ("H1", "H0")),
)  # fmt: skip


def first_line(claims: dict) -> str:
    activations = {
        "steps": [0, 1],
        "model": "tiny",
        "objective": "a",
        "seed": 0,
        "n_prompts": 9,
        "layers": [1],
    }
    diagrams = {"constant_cells": [], "n_prompts": 9, "subsample_size": 4}
    findings = {"claims": claims, "exploratory": False, "order": 2.0, "layers": {}}
    return write_note(findings, activations, diagrams, PAGE).split("\n")[0]


def test_a_note_says_what_a_point_is_and_which_layers_lie_along_one_direction(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    run, rng = Run("tiny", "helpful", 0), np.random.default_rng(0)
    round_one = rng.normal(size=(30, 4))
    long_one = round_one * [1, 1, 20, 1]
    # what happens after the first checkpoint does not matter
    clouds = {(0, 1): round_one, (8, 1): long_one, (0, 2): long_one, (8, 2): round_one}
    recording = {"pooling": "mean", "template": "hh"}
    plant_states(run, clouds, recording=recording, pooling=Pooling("mean").words)
    activations = storage.open_set(run.folder("activations"), storage.ACTIVATIONS)
    made = {"steps": [0, 8], "layers": [1, 2], "constant_cells": [], "n_prompts": 30, "subsample_size": 15}
    findings = {"claims": CLAIMS, "exploratory": False, "order": 2.0, "layers": {}}

    def noted(**prepared: Any) -> str:
        manifest = {**made, "prepared": prepared} if prepared else made
        found = dominated(activations, storage.StoredSet(tmp_path, manifest, ""))
        return write_note(findings, activations.manifest, manifest, PAGE, dominated=found)

    assert "of each the mean hidden state of all tokens at layers 1, 2" in noted()
    assert "the state of the last" not in noted()  # which a mean is not
    assert "along one direction** at layer 2 (99 %, 99 % in coordinate 2 alone) at the first" in noted()
    assert "`topology.normalise: zscore`" in noted()
    assert "one direction**" not in noted(metric="euclidean", normalise="zscore", pca=None)
    projected = noted(metric="euclidean", normalise="none", pca=2)
    assert "coordinate 0 alone" not in projected  # a projected cloud has directions, and no coordinates
    assert "one direction** at layer 1 (" in projected
    assert "`topology.pca`" not in projected
    (activations.folder / "step_000000/layer_02.npy").unlink()  # as where the manifest alone was fetched
    assert "one direction**" not in noted()


def test_the_first_line_says_what_moves_and_then_the_others_in_the_order_of_reading() -> None:
    line = first_line(CLAIMS)
    assert line.startswith("**H1 and H0 move**;")
    assert [line.index(word) for word in ("early", "calm", "leads")] == sorted(
        line.index(word) for word in ("early", "calm", "leads")
    )
    assert f"H1 {RATE}, H0 explained by scale" in line


def test_what_does_not_move_is_not_said_to() -> None:
    half = {**CLAIMS, **named(claim("moves", "H1", "not supported"))}
    line = first_line(half)
    assert "**H0 moves**" in line
    assert "H1 not supported" in line
    assert "H1 moves" not in line


def test_the_table_has_claims_in_the_order_of_reading_with_the_rung_that_decided() -> None:
    rows = [re.split(r" ?\| ?", row)[1:-1] for row in verdict_table(CLAIMS.values())[2:10]]
    assert [row[0].split()[0] for row in rows[::2]] == ["moves", "early", "calm", "leads"]
    assert [row[1] for row in rows] == ["H1", "H0"] * 4
    assert rows[2][3] == "✓ moves → ✗ the learning rate"
    assert rows[6][3] == "✓ moves → ? the learning rate"


def test_the_table_for_a_terminal_has_both_homologies_beside_a_claim_with_the_rung_that_decided() -> None:
    rungs = {"supported": "moves", "explained by scale": "scale", RATE: "the learning rate"}
    claims = [
        {
            **it,
            "statement": f"{it['claim']} and much more " * 3,
            "rung": rungs.get(it["verdict"], ""),
            "value": 0.5,
        }
        for it in CLAIMS.values()
    ]
    table = plain_table([{**claims[0], "rung": "few prompts", "p": 0.04}, *claims[1:]], width=90)
    assert max(map(len, table.splitlines())) < 90
    head, *rows = re.split(r"\n─+\n?", table)
    assert head.split() == ["claim", "loops", "(H1)", "components", "(H0)"]
    assert [row.split()[0] for row in rows] == ["moves", "early", "calm", "leads"]
    loops, components = (
        " ".join(line[at : at + 28].strip() for line in rows[1].splitlines()) for at in (30, 60)
    )
    assert loops.strip() == f"{RATE} rung: the learning rate value 0.5"
    assert components.strip().startswith("explained by scale rung: scale value 0.5")


def test_a_claim_of_neither_homology_stands_in_the_table_for_a_terminal() -> None:
    one = {**claim("moves", "", "cannot tell"), "rung": "seeds"}
    assert "cannot tell" in plain_table([one])


def test_a_stage_that_ends_in_verdicts_tells_them_where_no_name_steers_the_terminal(capsys) -> None:
    claims = {
        name: {**it, "rung": "scale", "statement": f"{it['claim']}\x1b[31m"} for name, it in CLAIMS.items()
    }
    reporting._say_what_was_found("tiny-a-0", {"claims": claims})
    said = capsys.readouterr().out
    assert "What may be said of tiny-a-0:" in said
    assert "rung: scale" in said
    assert "early\\x1b[31m" in said


def test_the_first_line_of_a_comparison_names_the_labels_of_each_verdict() -> None:
    claims = named(claim("early", "H1", "supported"), claim("objectives", "H1", "cannot tell", "<a>", "b"))
    facts = {"claims": claims, "runs": ["x", "y"], "order": 2.0, "n_subsamples": 4}
    line = write_comparison_note(facts, {}, PAGE, with_report=False).split("\n")[0]
    assert line == "**early: H1 supported**; objectives of &lt;a&gt; and b: H1 cannot tell."


def test_a_note_that_mlflow_would_cut_ends_with_a_whole_line_that_says_so() -> None:
    claims = named(*(claim("objectives", "H1", RATE, f"a{number}", "b") for number in range(60)))
    facts = {"runs": [], "order": 2.0, "n_subsamples": 4, "claims": claims}
    note = write_comparison_note(facts, {}, PAGE, with_report=False)
    assert len(note) <= MAX_TAG_VAL_LENGTH
    assert note.endswith("\n\nThis note is too long for MLflow; the rest is among the artifacts.\n")
    assert note.splitlines()[-3].endswith(" |")


def test_a_comparison_of_very_many_runs_names_them_without_links() -> None:
    def note(n_runs: int) -> str:
        runs = [f"tiny-helpful-{seed}" for seed in range(n_runs)]
        facts = {"runs": runs, "order": 2.0, "n_subsamples": 4, "claims": CLAIMS}
        return write_comparison_note(facts, dict.fromkeys(runs, PAGE), PAGE, with_report=False)

    assert f"[tiny-helpful-3]({PAGE.url})" in note(4)
    assert "`tiny-helpful-35`" in note(36)
    assert PAGE.url not in note(36)
    assert "comparison/velocity.png" in note(36)


def test_what_to_read_with_a_number_stands_beside_it() -> None:
    one = {**claim("objectives", "H1", "supported", "a", "b"), "value": 0.5}
    (row,) = verdict_table([{**one, "beside": "both labels spread alike: p = 0.4"}])[2:3]
    assert "| 0.5; both labels spread alike: p = 0.4 |" in row
    assert "| 0.5 |" in verdict_table([one])[2]


def test_velocities_have_their_rivals_beside_them_as_far_as_they_are_known() -> None:
    some = {"h1_unmatched": 0.121, "h1_unmatched_of_other_prompts": 0.2}
    layers = {"layer_01": some, "layer_02": {"h1_unmatched": None}, "layer_03": {}}
    known = {
        "layers": {**layers, "layer_04": {"h1_unmatched": 0.98}},
        "pooled": {"far_prompts": 0.31},
        "order": 2.0,
    }
    (said,) = rivals(known)
    assert "12 to 98 % comes from bars without a partner (of its power 2, by layer)" in said
    assert "between two sets of other prompts 20 %: near that, or near 100 %, the distance stops" in said
    assert "The 5 % of prompts that go farthest make 31 % of all squared movement" in said
    assert rivals({"layers": {"layer_01": {}}, "pooled": {"far_prompts": None}, "order": 2.0}) == []
