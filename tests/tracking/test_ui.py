"""What a reader sees: a real `mlflow server` with runs of a study, looked at with Chromium."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import mlflow
import numpy as np
import pytest
import yaml
from support import CHROMIUM, Server, small_params, tracking_to

from topoflow import storage
from topoflow.config import Params, load_params
from topoflow.figures import of_run, style
from topoflow.storage import layout
from topoflow.storage.layout import Run
from topoflow.study import stages

pytestmark = pytest.mark.slow


PNG = style.png_bytes(style.blank("a picture", "nothing"))
STEPS, LAYERS = (0, 1, 2, 4), (1, 2)


def finish(params: Params, run: Run) -> None:
    """What the stages leave of a run, from states that nothing has recorded."""
    rng = np.random.default_rng([run.seed, *run.objective.encode()])
    folder, names = run.folder("activations"), []
    cloud = rng.normal(size=(params.prompts.n_prompts, 8))
    for step in STEPS:
        for layer in LAYERS:
            cloud = cloud + rng.normal(size=cloud.shape) / (1 + step)
            names.append(f"{storage.cell_name(step, layer)}.npy")
            storage.write_file(folder / names[-1], storage.array_bytes(cloud.astype(np.float32)))
    losses = run.folder("results") / layout.LOSS_FILE
    layout.write_table(losses, ["step", "loss"], [[step, 1 / step] for step in range(1, 5)])
    manifest = {
        "format": storage.ACTIVATIONS,
        "model": run.model,
        "objective": run.objective,
        "seed": run.seed,
        "study_seed": params.seed,
        "sources": params.sources(run.model, run.objective),
        "weights_sha256": "00ff",
        "loss_sha256": storage.sha256_of_file(losses),
        "prompts_sha256": "abcd",
        "n_prompts": len(cloud),
        "hidden_size": 8,
        "dtype": "float32",
        "steps": STEPS,
        "layers": LAYERS,
        "finetune": params.training(run.objective),
        "recording": params.recorded(),
        "versions": {"torch": "1.2.3"},
    }
    storage.seal(folder, manifest, names)
    stages.diagrams(params, run)
    stages.trajectory(params, run)


class Requests(list[tuple[str, str]]):
    """What this process asks of a server, as (method, path)."""

    def __enter__(self) -> Requests:
        import requests

        self.send = requests.Session.send

        def send(session: Any, request: Any, **options: Any) -> Any:
            self.append((request.method, request.path_url))
            return self.send(session, request, **options)

        requests.Session.send = send  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        import requests

        requests.Session.send = self.send  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    running = Server(tmp_path_factory.mktemp("server"))
    yield running.address
    running.kill()


@dataclass
class Study:
    """What was logged, and the requests that each took."""

    server: str
    runs: dict[str, str] = field(default_factory=dict)
    comparison: str = ""
    asked: dict[str, list[tuple[str, str]]] = field(default_factory=dict)

    def address(self, run_id: str, tab: str = "") -> str:
        return f"{self.server}/#/experiments/0/runs/{run_id}{tab}"


@pytest.fixture(scope="module")
def study(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """Two objectives with two seeds, tracked and compared."""
    folder = tmp_path_factory.mktemp("study")
    params = small_params() | {"objectives": ["helpful", "harmless"], "seeds": [0, 1]}
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch, tracking_to(server):
        patch.chdir(folder)
        plain = dict.fromkeys(of_run.NAMES, PNG)  # they have tests of their own
        patch.setattr(of_run, "pictures", lambda *_: plain)
        loaded = load_params()
        found = Study(server)
        for run in loaded.runs():
            finish(loaded, run)
            with Requests() as asked:
                found.runs[str(run)] = stages.track(loaded, run)
            found.asked[str(run)] = asked
        with Requests() as asked:
            stages.compare(loaded)
        found.asked["comparison"] = asked
        (comparison,) = mlflow.search_runs(
            filter_string="tags.`topoflow.comparison` != ''", output_format="list"
        )
        found.comparison = comparison.info.run_id
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A tab that knows what went wrong in it, and which requests would have left this machine."""
    opened = browser.new_page(viewport={"width": 1700, "height": 1300})
    opened.set_default_timeout(60_000)
    opened.errors, opened.foreign = [], []
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.on(
        "console", lambda message: opened.errors.append(message.text) if message.type == "error" else None
    )
    opened.route(lambda url: not url.startswith(("http://127.0.0.1", "data:", "blob:", "file:")),
                 lambda route: (opened.foreign.append(route.request.url), route.abort()))  # fmt: skip
    opened.add_init_script("localStorage['mlflow.assistant.fab.autoOpenedOnFirstLoad_v1'] = true")
    yield opened
    opened.close()


def of_models(path: str) -> bool:
    """Whether a request is for logged models, or links them to their run."""
    return "/logged-models" in path or path.endswith("/runs/outputs")


def test_a_run_takes_ten_requests_beside_artifacts_seven_a_table_and_a_comparison_fewer_than_fifty(study):
    for name in study.runs:
        others = [path for method, path in study.asked[name] if method != "PUT" and not of_models(path)]
        assert len(others) <= 10 + 7, name  # with its table of prompts, which MLflow reads before it writes
    assert len(study.asked["comparison"]) < 50
    uploads = [path for method, path in study.asked["comparison"] if method == "PUT"]
    assert len([path for path in uploads if path.endswith("/report.html")]) == 1


def test_a_checkpoint_takes_three_requests_beside_its_file_and_what_is_said_of_weights_two(study):
    for name in study.runs:
        asked = [path for method, path in study.asked[name] if method != "PUT" and of_models(path)]
        searched, linked, with_weights = 2, 1, 1  # those of the model at step 0 are known
        assert len(asked) <= 3 * len(STEPS) + searched + linked + 2 * with_weights, asked


def test_the_charts_of_each_quantity_show_all_runs(study, page):
    page.goto(f"{study.server}/#/experiments/0/runs?workflowType=machine_learning&compareRunsMode=CHART")
    page.get_by_placeholder("Search metric charts").fill("h1_velocity")
    page.get_by_text("topology/h1_velocity/layer_02").first.wait_for()
    drawn = """() => [...document.querySelectorAll(".js-plotly-plot")].map(
        plot => [...new Set(plot.data.map(line => line.name))].sort().join())"""
    all_runs = ",".join(sorted(study.runs))
    page.wait_for_function(
        f"wanted => ({drawn})().join(';') === wanted", arg=f"{all_runs};{all_runs}"
    )  # two layers


def test_the_page_of_models_draws_a_bar_a_checkpoint(study, page):
    page.goto(f"{study.server}/#/experiments/0/models?workflowType=machine_learning&viewMode=CHART")
    page.get_by_text("tiny-helpful-0-step-000004").first.wait_for()
    page.get_by_placeholder("Search metric charts").fill("h1_velocity")
    velocities = [
        metric.value
        for model in mlflow.search_logged_models(["0"], output_format="list")
        for metric in model.metrics
        if metric.key == "topology/h1_velocity/layer_02"
    ]
    assert len(velocities) == len(study.runs) * (len(STEPS) - 1)
    drawn = """() => [...document.querySelectorAll(".js-plotly-plot")].map(
        plot => plot.data.flatMap(bars => [...bars.x]))"""
    page.wait_for_function(f"() => ({drawn})().length === 2 && ({drawn})().every(bars => bars.length > 3)")
    assert set(page.evaluate(drawn)[1]) <= set(velocities)  # of those that are not hidden


def test_the_note_of_a_run_shows_its_picture_and_leads_to_the_others(study, page):
    page.goto(study.address(study.runs["tiny-helpful-0"]))
    page.get_by_text("Show more").click()
    picture = page.locator('img[src*="topology%2Fvelocity.png"]')
    picture.wait_for()
    page.wait_for_function(
        "image => image.complete && image.naturalWidth > 100", arg=picture.element_handle()
    )
    with page.expect_popup() as opened:
        page.get_by_role("link", name="pictures and tables").click()
    opened.value.get_by_text("verdicts.csv").wait_for()


def test_the_comparison_leads_to_its_runs_and_to_the_report(study, page):
    page.goto(study.address(study.comparison))
    page.get_by_text("Show more").click()
    with page.expect_popup() as opened:
        page.get_by_role("link", name="tiny-harmless-1").click()
    opened.value.get_by_text("fine-tuned on harmless, seed 1").wait_for()
    with page.expect_popup() as opened:
        page.get_by_role("link", name="report.html").click()
    lines = opened.value.frame_locator("iframe").locator("svg polyline")
    lines.first.wait_for()
    assert lines.count() > len(study.runs)
    frame = opened.value.frame_locator("iframe")
    frame.locator("summary").filter(has_text="tiny, helpful, seed 0").first.click()
    frame.get_by_text("this link works once the report is downloaded").first.wait_for()


def test_the_report_alone_has_no_error_and_asks_nobody(study, page, tmp_path):
    path = mlflow.artifacts.download_artifacts(
        run_id=study.comparison, artifact_path="report.html", dst_path=tmp_path
    )
    page.goto(f"file://{path}")
    page.locator("svg polyline").first.wait_for()
    page.wait_for_load_state("networkidle")
    assert (page.errors, page.foreign) == ([], [])
    run_id = study.runs["tiny-helpful-0"]
    link = page.get_by_role("link", name=run_id, include_hidden=True)
    assert link.get_attribute("href") == study.address(run_id, "?workflowType=machine_learning")
    display = page.locator(".in-frame").first.evaluate("words => getComputedStyle(words).display")
    assert display == "none"
