"""The report of a study: whole, alone, the same each time, and honest about what is not there."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
from dataclasses import asdict
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from support import CHROMIUM, REPOSITORY, refused

from topoflow import finished, storage
from topoflow.cli import main
from topoflow.config import Params, load_params, parse_params
from topoflow.errors import InvalidFile
from topoflow.figures import style
from topoflow.finished import read_comparison
from topoflow.names import BAR_COLUMNS, H1_VELOCITY, PROMPT_COLUMNS
from topoflow.report import charts, page
from topoflow.report import study as module
from topoflow.report.study import report as make
from topoflow.storage import layout
from topoflow.storage.layout import Run
from topoflow.study.comparison import seal
from topoflow.topology.dominance import Dominance
from topoflow.topology.persistence import choose_engine

HOSTILE = "<script>alert(1)</script>&\"'.jsonl"
BARS = np.array([[0.5, 1.0], [0.6, 0.9]])
PNG = style.png_bytes(style.blank("a picture", "nothing"))


class Study:
    """A finished study in a folder: results and comparison of the committed one, with diagrams made up."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        mapping = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
        mapping |= {"objectives": ["helpful", "harmless"], "seeds": [0, 1], **changes}
        (folder / "params.yaml").write_text(yaml.safe_dump(mapping), encoding="utf-8")
        self.params: Params = parse_params(mapping)
        pooled = {str(run): self._lay_down(run) for run in self.params.runs()}
        if len(pooled) > 1:
            shutil.copytree(REPOSITORY / "comparison", layout.COMPARISON_FOLDER)
            facts = layout.read_json(layout.COMPARISON_FOLDER / layout.COMPARISON_FILE)
            seal(layout.COMPARISON_FOLDER, {**facts, "runs": pooled})

    def _lay_down(self, run: Run) -> Any:
        params, topology = self.params, self.params.topology
        known = run.objective if run.objective in ("helpful", "harmless") else "mixed"
        shutil.copytree(REPOSITORY / Run("tiny", known, run.seed).folder("results"), run.folder("results"))
        rows = layout.read_table(run.folder("results") / layout.SUMMARIES_FILE)
        steps, layers = (sorted({int(row[key]) for row in rows}) for key in ("step", "layer"))
        activations = {
            "format": storage.ACTIVATIONS,
            "steps": steps,
            "layers": layers,
            "n_prompts": params.prompts.n_prompts,
            "prompts_sha256": "abcd",
            **asdict(run),
            "sources": params.sources(run.model, run.objective),
            "study_seed": params.seed,
            "seed": run.seed,
            "finetune": params.training(run.objective),
            "recording": params.recorded(),
            "versions": {"torch": "1.2.3"},
            "weights_sha256": "00ff",
        }
        folder = run.folder("activations")
        self.write(folder / storage.MANIFEST, activations)
        with storage.writing(run.folder("diagrams"), "key") as work:
            names = [f"{storage.cell_name(step, layer)}.npz" for step in steps for layer in layers]
            for name in names:
                storage.write_file(work / name, storage.diagram_bytes([[BARS * [0, 1], BARS]]))
            made = {
                "format": storage.DIAGRAMS,
                **asdict(run),
                "n_prompts": params.prompts.n_prompts,
                "plan_sha256": "0" * 64,
                "study_seed": params.seed,
                "activations": storage.sha256_of_file(folder / storage.MANIFEST),
                "steps": steps,
                "layers": layers,
                "n_subsamples": topology.n_subsamples,
                "subsample_size": topology.subsample_size,
                "maxdim": topology.maxdim,
                "engine": choose_engine(topology.engine, topology.maxdim),
                "complex": "Vietoris-Rips",
                "prompts_sha256": "abcd",
                "constant_cells": [[0, layers[0]]],
                "versions": {"numba": "4.5.6"},
            }
            storage.seal(work, made, names)
        path = run.folder("results") / layout.TRAJECTORY_FILE
        digest = storage.sha256_of_file(run.folder("diagrams") / storage.MANIFEST)
        vouched = layout.hashes(run.folder("results"), (*layout.RUN_TABLES, layout.LOSS_FILE))
        findings = {**layout.read_json(path), "diagrams": digest, "files": vouched}
        self.write(path, findings)
        return findings["pooled"]

    @staticmethod
    def write(path: Path, value: Any) -> None:
        storage.write_file(path, storage.json_bytes(value))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study, Any]:
    """A folder, the study of two objectives with two seeds that lies there, and its report."""
    folder = tmp_path_factory.mktemp("whole")
    with contextlib.chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "kept_pictures", plain_pictures)
        study = Study(folder)
        return folder, study, make(study.params)


def plain_pictures(*_: Any) -> dict[str, bytes]:
    """In place of a run's, which have tests of their own."""
    return dict.fromkeys(module._RUN_PICTURES, PNG)


@pytest.fixture
def study(whole: tuple[Path, Study, Any], here: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A copy of that study for the test."""
    monkeypatch.setattr(module, "kept_pictures", plain_pictures)
    folder, study, _ = whole
    shutil.copytree(folder, here, dirs_exist_ok=True)
    return study


class Reader(HTMLParser):
    """What a page holds: its tags with their attributes, and its text outside of scripts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.scripts, self._inside = "", [], ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag if tag in ("script", "style") else ""

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            self.scripts.append(data)
        elif not self._inside:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def text_of(html: bytes) -> str:
    return " ".join(Reader(html.decode()).text.split())


def test_a_study_is_told_from_its_claims_to_its_hashes(study: Study, whole: Any) -> None:
    html, missing = whole[2]
    assert missing == []
    read, text = Reader(html.decode()), text_of(html)
    assert "missing" not in {attributes.get("id") for attributes in read.all("section")}
    for claim in layout.read_json(Path("comparison/comparison.json"))["claims"].values():
        assert claim["statement"] in text
        assert claim["rule"].replace("<=", "≤").replace(">=", "≥") in text
    anchors = {attributes.get("id") for _, attributes in read.tags}
    links = [attributes["href"] or "" for attributes in read.all("a")]
    assert {f"#run-{run}" for run in study.params.runs()} < set(links)
    assert {link.removeprefix("#") for link in links} <= anchors
    n_pictures = 4 * len(module._RUN_PICTURES) + len(module._COMPARISON_PICTURES)
    assert len(read.all("img")) == n_pictures
    assert all(attributes["alt"] for attributes in read.all("img"))
    for run in study.params.runs():
        findings = run.folder("results") / layout.TRAJECTORY_FILE
        for path in (
            findings,
            *(run.folder(kind) / storage.MANIFEST for kind in ("activations", "diagrams")),
        ):
            assert storage.sha256_of_file(path) in text
    for words in (
        "torch 1.2.3",
        "numba 4.5.6",
        "finetune.max_steps",
        "What this does not show",
        "concentration",
    ):
        assert words in text
    assert "Layer 1 is constant at some checkpoints" in text


def test_it_says_what_a_point_is_and_which_layers_lie_along_one_direction(
    study: Study, whole: Any, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "prompts, hidden state of the last token;" in Reader(whole[2][0].decode()).text
    monkeypatch.setattr(module.finished, "dominated", lambda *_: {7: Dominance(0.83, 0.79, 12)})
    (here / "other").mkdir()
    monkeypatch.chdir(here / "other")
    other = Study(here / "other", objectives=["helpful"], seeds=[0], recording={"pooling": "mean"})
    text = Reader(make(other.params)[0].decode()).text
    assert "prompts, mean hidden state of all tokens;" in text
    assert "along one direction at layer 7 (83 %, 79 % in coordinate 12 alone)" in text


def test_the_same_files_give_the_same_bytes(study: Study, whole: Any) -> None:
    assert make(study.params) == whole[2]


def test_nothing_is_loaded_and_nothing_but_its_own_script_may_run(whole: Any) -> None:
    html = whole[2][0].decode()
    read = Reader(html)
    for tag, attributes in read.tags:
        for name in ("src", "srcset", "data", "action", "poster"):
            assert (attributes.get(name) or "data:").startswith("data:"), tag
        if "href" in attributes:
            assert (tag, (attributes["href"] or "")[0]) == ("a", "#")
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    assert not {"link", "iframe", "object", "embed", "base"} & {tag for tag, _ in read.tags}
    assert "http://" not in html
    assert "https://" not in html
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", html)
    (policy,) = [a["content"] or "" for a in read.all("meta") if "http-equiv" in a]
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy


def test_text_that_looks_like_html_is_shown_as_text(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "kept_pictures", plain_pictures)
    objective = {"source": "file", "path": f"/home/me/{HOSTILE.replace('/', '')}"}
    mapping = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    study = Study(here, objectives=["mine"], seeds=[0], objective={**mapping["objective"], "mine": objective})
    html = make(study.params)[0].decode()
    assert "<script>alert" not in html
    assert HOSTILE.replace("/", "") in unescape(html)
    assert "/home/me" not in html  # a mailed report says nothing of the machine
    assert [code for code in Reader(html).scripts if "alert" in code] == []


def plant_bars(run: Run) -> None:
    """Tables of the bars and prompts that changed in the fastest interval of the deepest layer."""
    results = run.folder("results")
    steps, velocities = layout.read_velocity(results / layout.VELOCITY_FILE, H1_VELOCITY)
    bars, prompts = [], []
    for layer, line in velocities.items():
        at = int(np.argmax(line))
        interval = (layer, int(steps[at]), int(steps[at + 1]))
        bars.append([*interval, "H1", "matched", 1.0, 2.0, 1.5, 2.5, 0.25, 3, "1 2"])
        bars.append([*interval, "H1", "born", None, None, 1.0, 1.5, 0.125, 1, "2"])
        bars.append([*interval, "H0", "died", 0.0, 1.0, None, None, 0.5, 1, "3"])
        bars.append([layer, 0, 999, "H0", "died", 0.0, 7.0, None, None, 0.5, 1, "3"])  # another interval
        prompts += [[*interval, line, 0.5 / line, 0.25, None, 4.0, 0.1] for line in range(1, 13)]
    layout.write_table(results / layout.BARS_FILE, BAR_COLUMNS, bars)
    layout.write_table(results / layout.PROMPT_SCORES_FILE, PROMPT_COLUMNS, prompts)
    findings = layout.read_json(results / layout.TRAJECTORY_FILE)
    vouched = layout.hashes(results, (layout.BARS_FILE, layout.PROMPT_SCORES_FILE))
    Study.write(results / layout.TRAJECTORY_FILE, {**findings, "files": {**findings["files"], **vouched}})


def test_the_prompts_behind_the_largest_change_are_a_chart_and_a_table_with_their_text(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "The prompts behind" not in text_of(make(study.params)[0])  # an older run has no such tables
    run = study.params.runs()[0]
    plant_bars(run)
    monkeypatch.setattr(finished, "prompt_texts", lambda *_: [f"{HOSTILE} 1", "Two, " * 40])
    html = make(study.params)[0].decode()
    read = Reader(html)
    assert read.text.count("The prompts behind the largest change") == 1
    (spec,) = (json.loads(script) for script in read.scripts if "Bars that changed most" in script)
    layers = spec["toggles"][0]["options"]
    assert [toggle["options"] for toggle in spec["toggles"]] == [layers, ["H1", "H0"]]
    matched, born, died = (series for series in spec["series"] if series["keys"][0] == layers[0])
    assert (matched["x"], matched["y"]) == ([1.0, 1.5], [2.0, 2.5])
    assert (born["x"], born["y"]) == ([1.25, 1.0], [1.25, 1.5])  # from the diagonal
    assert (died["x"], died["y"]) == ([0.0, 0.5], [1.0, 0.5])  # and to it
    assert matched["name"] == "H1 bar, matched: 25 % of the change, in 3 of the subsamples"
    first, second = matched["tips"][0].split("\n")
    assert first == f"1: {HOSTILE} 1"
    assert second.startswith("2: Two, Two,")
    assert second.endswith("…")
    assert died["tips"][0] == "prompt 3"  # its text is not known
    assert "<script>alert" not in html
    rows = re.findall(r"<tr><td>(\d+)</td><td>(.*?)</td><td class=\"number\">([\d.]+)</td>", html)
    assert [int(line) for line, *_ in rows] == list(range(1, 11))
    assert unescape(rows[0][1]) == f"{HOSTILE} 1"
    assert rows[2][1:] == ("–", "0.17")


def test_json_cannot_end_its_script_and_prose_is_escaped_before_it_is_marked_up() -> None:
    value = {"a": [HOSTILE, "<!--", float("nan"), 1 / 3], "b": (1, None)}
    text = page.script_json(value)
    assert not set("<>&") & set(text)
    assert json.loads(text) == {"a": [HOSTILE, "<!--", None, 0.333333], "b": [1, None]}
    assert page.prose("**a** *b* `c` <b>") == "<strong>a</strong> <em>b</em> <code>c</code> &lt;b&gt;"
    assert page.prose("2 * 3 * 4") == "2 * 3 * 4"
    words = ("claim", "homology", "statement", "statistic", "rule", "verdict", "beside", "why")
    hostile = dict.fromkeys(words, HOSTILE)
    missing = dict.fromkeys(("value", "low", "high", "p"))
    table = page.claims_table([{**hostile, **missing, "steps": [(HOSTILE, HOSTILE)]}])
    spec = {"title": HOSTILE, "series": [HOSTILE]}
    parts = [
        table,
        page.chart(spec, HOSTILE),
        page.facts({HOSTILE: "x"}),
        page.picture(PNG, HOSTILE, HOSTILE),
    ]
    for html in parts:
        assert "<script>alert" not in html
        assert "alert(1)</script>" not in html
    assert b"<title>&lt;script&gt;" in page.document(HOSTILE, "")


# --- what is not there ---


def test_what_is_missing_is_named_and_the_rest_is_told(study: Study) -> None:
    first, second, third, fourth = study.params.runs()
    shutil.rmtree(first.folder("diagrams"))
    (second.folder("results") / layout.TRAJECTORY_FILE).unlink()
    shutil.rmtree(third.folder("activations"))
    study.write(fourth.folder("activations") / storage.MANIFEST, {"changed": True})
    (layout.COMPARISON_FOLDER / "effects.png").unlink()
    html, missing = make(study.params)
    text = text_of(html)
    assert len(missing) == 5
    assert all(" ".join(reason.split()) in text for reason in missing)
    pictures, results, states, stale, picture = missing
    assert "Pictures of the run tiny-helpful-0: diagrams/tiny/helpful/seed_0 must be a whole set" in pictures
    assert (
        "The run tiny-helpful-1: results/tiny/helpful/seed_1/trajectory.json must have been made" in results
    )
    assert "activations/tiny/harmless/seed_0 is not here" in states
    assert "The run tiny-harmless-1: diagrams/tiny/harmless/seed_1 was made from activations" in stale
    assert "comparison/effects.png is not here" in picture
    assert "2 of 4; see what is missing" in text
    folded = r'<section class="missing" id="missing"><details class="more"><summary>[^\n]*: 5 parts'
    assert re.search(folded, html.decode())
    assert "Its pictures need its diagrams, which are not here." in text


def test_a_comparison_of_other_runs_or_results_is_left_out_and_said(study: Study) -> None:
    path = layout.COMPARISON_FOLDER / layout.COMPARISON_FILE
    facts = layout.read_json(path)
    name = str(study.params.runs()[0])
    study.write(path, {**facts, "runs": {**facts["runs"], name: {**facts["runs"][name], "peak_step": -1}}})
    html, missing = make(study.params)
    assert len(missing) == 1
    assert f"{path} was made from other results of {name}; bring it up to date" in missing[0]
    assert "A comparison of runs is not here" in text_of(html)
    study.write(path, {**facts, "runs": {name: facts["runs"][name]}})
    assert f"{path} is of tiny-helpful-0; bring it up to date" in make(study.params)[1][0]


def test_a_comparison_whose_files_were_altered_is_left_out_and_said(study: Study) -> None:
    for name in (*layout.COMPARISON_TABLES, *layout.COMPARISON_PICTURES):
        path = layout.COMPARISON_FOLDER / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-3])
        with refused(InvalidFile, path=path, remedy="dvc repro --force --single-item compare"):
            read_comparison()
        path.write_bytes(whole)
    path.write_bytes(whole[:-3])
    _, missing = make(study.params)
    assert len(missing) == 1
    assert str(path) in missing[0]


def test_results_that_params_do_not_describe_are_left_out(study: Study) -> None:
    mapping = yaml.safe_load(Path("params.yaml").read_text())
    mapping["topology"]["subsample_size"] = 100
    with refused(InvalidFile, path="results", remedy="The run tiny"):
        make(parse_params(mapping))


@pytest.mark.slow
def test_one_run_is_a_report_with_its_real_pictures_and_no_comparison(here: Path) -> None:
    study = Study(here, objectives=["helpful"], seeds=[0])
    html, missing = make(study.params)
    read, text = Reader(html.decode()), text_of(html)
    assert missing == []
    assert "A comparison of runs needs two runs, and this study has one." in text
    assert "Side by side" not in text
    assert len(read.all("img")) == len(module._RUN_PICTURES)
    (fold,) = [attributes for attributes in read.all("details") if attributes.get("class") == "run"]
    assert "open" in fold


def test_the_command_writes_the_file_and_says_what_is_missing(study: Study) -> None:
    shutil.rmtree(study.params.runs()[0].folder("diagrams"))
    result = CliRunner().invoke(main, ["report", "--out", "out/study.html"])
    assert result.exit_code == 0
    assert "Missing: Pictures of the run tiny-helpful-0" in result.output
    assert "The report is out/study.html." in result.output
    assert Path("out/study.html").read_bytes().startswith(b"<!DOCTYPE html>")
    shutil.rmtree("results")
    result = CliRunner().invoke(main, ["report"])
    assert (result.exit_code, "make it with: dvc repro" in result.output) == (1, True)


# --- charts ---


def test_charts_hold_each_value_with_its_interval_in_words() -> None:
    nan = [np.nan] * 2
    made = charts.velocity_chart(
        [0, 1, 2], {3: [0.5, np.nan], 1: [1, 2]}, {1: ([0.9, 1.5], [1.1, 2.5]), 3: (nan, nan)}, title="t"
    )
    assert [series["name"] for series in made["series"]] == ["layer 1", "layer 3"]
    first, second = made["series"]
    assert first["tips"][1] == "steps 1 to 2: 2\n95 % interval over prompts 1.5 to 2.5"
    assert (first["low"], "low" in second) == ([0.9, 1.5], False)
    assert json.loads(page.script_json(second))["y"] == [0.5, None]
    assert made["toggles"][0]["on"] == ["1", "3"]
    assert made["x"]["ticks"] == [[0, "0"], [0.5, "1"], [1, "2"]]


def test_steps_between_twins_are_dots_of_a_run_and_left_out_of_many() -> None:
    steps = [step + twin for step in range(0, 24, 4) for twin in (0, 1)]
    line = np.arange(1.0, len(steps))
    made = charts.velocity_chart(steps, {1: line}, {1: (line, line + 1)}, title="t")
    lined, dots = made["series"]
    assert (lined["dots"], lined["y"], "low" in lined) == (False, line[1::2].tolist(), True)
    assert (dots["dots"], dots["y"], "low" in dots) == (True, line[::2].tolist(), False)
    assert lined["tips"][0].startswith("steps 1 to 4: 2")
    assert "between twins" in charts.without_line(steps)
    runs = charts.runs_chart({"a": (steps, {1: line})}, {"a": "a"}, title="t")
    assert [series["y"] for series in runs["series"]] == [lined["y"]]


def test_charts_of_many_checkpoints_show_the_largest_of_each_few_and_say_so() -> None:
    line = np.zeros(1000)
    line[[137, 640]] = 3, 5
    line[10] = np.nan
    made = charts.velocity_chart(range(0, 2002, 2), {1: line}, {1: (line, line + 1)}, title="t")
    (series,) = made["series"]
    assert {len(series[key]) for key in ("x", "y", "low", "high", "tips")} == {256}
    assert sorted(series["y"])[-3:] == [0, 3, 5]
    assert series["tips"][series["y"].index(5)].startswith("steps 1280 to 1282: 5\n")
    assert len(made["x"]["ticks"]) <= 256
    runs = charts.runs_chart({"a": (range(0, 2002, 2), {1: line})}, {"a": "a"}, title="t")
    assert runs["series"][0]["y"] == series["y"]
    assert charts.thinning(1000)
    assert not charts.thinning(256)


def test_the_chart_of_runs_has_each_run_and_the_mean_of_seeds() -> None:
    curves: dict[str, charts.Curves] = {
        "a, seed 0": ([0, 1, 2], {1: [1, 2]}),
        "a, seed 1": ([0, 1, 2], {1: [3, 4]}),
        "b": ([0, 2], {1: [5]}),
    }
    made = charts.runs_chart(curves, {"a, seed 0": "a", "a, seed 1": "a", "b": "b"}, title="t")
    named = {series["name"]: series for series in made["series"]}
    assert list(named) == ["a, seed 0", "a, seed 1", "a, mean of 2 seeds", "b"]
    assert named["a, mean of 2 seeds"]["y"] == [2, 3]
    assert [series["bold"] for series in named.values()] == [False, False, True, True]
    assert named["b"]["tips"] == ["steps 0 to 2: 5"]
    assert len({series["colour"] for series in named.values()}) == 2


def test_the_map_has_a_path_a_run_and_layer() -> None:
    paths = {"a, seed 0": (np.array([0, 4]), np.array([[1.0, 2], [3, 4]]))}
    made = charts.map_chart({1: (0.5, paths), 2: (np.nan, paths)}, {"a, seed 0": "a"}, title="t")
    first, second = made["series"]
    assert (first["x"], first["y"], first["keys"]) == ([1, 3], [2, 4], ["1", "a"])
    assert first["tips"][1] == "step 4\nlayer 1: 50 % of the variance"
    assert second["tips"][1] == "step 4"
    assert made["toggles"][0]["on"] == ["2"]


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_no_table_of_the_default_study_is_wider_than_a_page_of_1200_pixels(tmp_path, monkeypatch) -> None:
    from playwright.sync_api import sync_playwright

    for name in ("results", "comparison"):
        shutil.copytree(REPOSITORY / name, tmp_path / name)
    monkeypatch.chdir(tmp_path)
    params = load_params(str(REPOSITORY / "params.yaml"))
    (tmp_path / "report.html").write_bytes(make(params)[0])
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1200, "height": 900})
        opened.goto((tmp_path / "report.html").as_uri())
        wide = "tables => tables.map(table => [table.className, table.scrollWidth - table.parentNode.clientWidth])"
        found = opened.locator("table").evaluate_all(wide)
        browser.close()
    assert "glance" in dict(found)
    assert max(over for _, over in found) <= 0


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_draws_the_charts_and_answers_the_pointer_without_an_error(here: Path, whole: Any) -> None:
    html = whole[2][0].decode()
    # a script of the test's own, which the report's policy would not let run
    pointed = """<script>addEventListener("load", () => { for (const svg of document.querySelectorAll("svg")) {
        const circle = svg.querySelector("circle:not(.mark)"); if (!circle) continue;
        const box = circle.getBoundingClientRect();
        const centre = {clientX: box.x + box.width / 2, clientY: box.y + box.height / 2};
        svg.dispatchEvent(new PointerEvent("pointermove", centre)); } });</script>"""
    Path("plain.html").write_text(html)
    Path("pointed.html").write_text(re.sub("<meta http-equiv.*?>", "", html) + pointed)
    Path("attacked.html").write_text(html.replace("<main>", "<main><script>document.title = 'mine'</script>"))

    def shown(name: str) -> tuple[str, str]:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"]
        command = [str(CHROMIUM), *flags, "--virtual-time-budget=3000", Path(name).resolve().as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
        return done.stdout, "\n".join(console)

    drawn, console = shown("plain.html")
    assert console == ""
    side_by_side = drawn.split('<section id="each-run">')[0]
    assert side_by_side.count("<polyline") == (4 + 2) + 4  # runs and means of one layer; their paths
    answered, console = shown("pointed.html")
    assert console == ""
    tips = re.findall(r'<div class="tip"[^>]*>([^<]+)</div>', answered)
    assert len(tips) >= 2  # and those of runs, where the browser lays out what is folded
    assert re.fullmatch(r"helpful, seed 0\nsteps 1 to 2: [\d.]+", tips[0])
    assert re.fullmatch(r"\w+, seed \d\nstep \d+\nlayer 5: \d+ % of the variance", tips[1])
    attacked, console = shown("attacked.html")
    assert "<title>mine</title>" not in attacked
    assert "Content Security Policy" in console


def test_a_floor_of_halves_that_are_smaller_than_subsamples_is_said_to_be_approximate() -> None:
    from topoflow.tracking.note import caveats

    made = {"constant_cells": [], "subsample_size": 160}
    assert list(caveats({**made, "n_prompts": 320}, {})) == []
    (said,) = caveats({**made, "n_prompts": 319}, {})
    assert "159" in said


def test_claims_stand_in_the_order_of_reading_each_with_the_rung_that_decided_and_its_colour() -> None:
    outcomes = {
        "calm": "explained by the learning rate", "early": "not supported beyond the learning rate",
        "leads": "cannot tell", "moves": "supported",
    }  # fmt: skip
    words = dict.fromkeys(("statement", "statistic"), "so")
    numbers = dict.fromkeys(("value", "low", "high", "p"))
    html = page.claims_table(
        {
            **words, **numbers, "claim": name, "homology": homology, "verdict": verdict, "rule": "if p",
            "why": "too few" if verdict == "cannot tell" else "",
            "steps": [("moves", "passed"), ("the learning rate", "passed" if verdict == "supported" else verdict)],
        }
        for homology in ("H0", "H1")
        for name, verdict in outcomes.items()
    )  # fmt: skip
    sorts = re.findall(r'class="verdict (\w+)"', html)
    assert sorts[::2] == sorts[1::2] == ["supported", "unsupported", "explained", "open"]
    assert re.findall(r"<b>(H\d)</b>", html) == ["H1", "H0"] * 4
    assert html.count("<li>✗ the learning rate</li></ol>") == 4
    assert html.count("<div>too few</div>") == 2  # beside what cannot be told


def test_what_to_read_with_a_number_stands_in_its_row_and_nothing_where_there_is_none() -> None:
    row = {**dict.fromkeys(("value", "low", "high", "p")), "claim": "objectives", "homology": "H1", "steps": [],
           "statement": "a and b differ", "statistic": "so", "rule": "if p", "verdict": "supported"}  # fmt: skip
    beside = "test of equal spread between seeds: p = 0.4"
    with_it, without = (page.claims_table([{**row, **more}]) for more in ({"beside": beside}, {}))
    assert f"a and b differ<div>{beside}</div>" in with_it
    assert (
        with_it.replace(f"<div>{beside}</div>", "") == without == page.claims_table([{**row, "beside": ""}])
    )
