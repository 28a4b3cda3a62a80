"""`topoflow plan` as a whole: what it measures, what it assumes, what it compares with which machine."""

from __future__ import annotations

import json
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from support import REPOSITORY, assistant, refused, small_params, user

from topoflow.cli import main
from topoflow.config import load_params, parse_params
from topoflow.storage.layout import Run
from topoflow.study import calibration, planning
from topoflow.study.cards import BANDWIDTH_EFFICIENCY, CARDS, EFFICIENCY, card
from topoflow.study.cost import Opened, Rates, Size, Texts, count, estimate, readable

RUN = Run("tiny", "helpful", 0)
H100 = card("h100:80")


@pytest.fixture
def plan(tmp_path, monkeypatch, model_cache):
    """`topoflow plan` in a study of its own, with some keys of params.yaml changed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TOPOFLOW_CACHE", str(model_cache))
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)

    def call(*arguments: str, **changes: Any) -> Any:
        Path("params.yaml").write_text(yaml.safe_dump({**small_params(), **changes}))
        before = set(Path().iterdir())
        result = CliRunner().invoke(main, ["plan", *arguments])
        assert set(Path().iterdir()) == before  # nothing is left behind
        return result

    return call


@pytest.fixture
def full(monkeypatch):
    """A machine without room for anything."""
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 10})())
    monkeypatch.setattr(planning, "memory_free", lambda: 10)


def numbers(text: str) -> dict[str, str]:
    return {line[:20].strip(): line[20:] for line in text.partition("\n\n")[0].splitlines()}


def config_alone(folder: Path, **changes: Any) -> dict[str, str]:
    """A model's folder without weights, as an entry under `model`; `changes` make it larger."""
    from topoflow.embedded import embedded_folder

    shutil.copytree(embedded_folder("mini"), folder)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**written, **changes}))
    return {"source": "folder", "path": str(folder)}


SEVEN = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
         "num_key_value_heads": 32, "head_dim": 128, "vocab_size": 32000}  # fmt: skip


def test_this_machine_is_measured_on_the_clock_and_in_cpu(plan):
    said = plan("--objective", "helpful")
    assert said.exit_code == 0, said.output
    found = numbers(said.output)
    assert found["checkpoints"] == "4 of 2 layers: 8 cells"
    assert found["memory"].endswith(" (measured)")
    assert found["weights opened in"] == "float32"
    for name in ("time of finetune", "time of diagrams", "time in all"):
        assert re.fullmatch(r"[\d.]+ (s|min) \([\d.]+ (s|min) of CPU\)", found[name]), name
    assert "measured here: steps and recordings of the model, without the first, memory" in said.output
    assert "assumed: the start and end of stages" in said.output
    assert "What this run can decide: " in said.output.partition("disk free")[2]


def test_a_model_without_a_chat_template_is_measured_as_well(plan, tmp_path):
    from topoflow.embedded import embedded_folder

    shutil.copytree(embedded_folder("mini"), tmp_path / "plain")
    for template in (tmp_path / "plain").glob("*.jinja"):
        template.unlink()
    said = plan(
        "--objective", "helpful", model={"tiny": {"source": "folder", "path": str(tmp_path / "plain")}}
    )
    assert said.exit_code == 0, said.output
    assert numbers(said.output)["memory"].endswith(" (measured)")


def test_a_run_without_twins_has_a_cost_as_well(plan):
    recording = {**small_params()["recording"], "schedule": {"every": 2, "twins": 0}}
    said = plan("--objective", "helpful", "--flops", "1e12", recording=recording)
    assert said.exit_code == 0, said.output
    assert "What this run can decide: 0 twins" in said.output


def test_what_cannot_fit_here_is_refused(plan, full):
    said = plan("--objective", "helpful")
    assert said.exit_code == 1
    assert "of disk, and 10 B are free" in said.output
    assert "of memory, and 10 B are available" in said.output


def test_a_plan_for_a_card_is_compared_with_the_card_and_not_with_this_machine(plan, full, tmp_path):
    said = plan("--objective", "helpful", "--gpu", "h100:80")
    assert said.exit_code == 0, said.output
    assert "40% of 67 TFLOP/s in float32 and 70% of 3.35 TB/s, the peaks in: NVIDIA H100" in said.output
    assert "nothing is measured on this machine or compared with it" in said.output
    assert "disk free" not in said.output
    seven = config_alone(tmp_path / "seven", **SEVEN)
    model = {"tiny": seven | {"dtype": "float32"}}
    said = plan("--objective", "helpful", "--gpu", "4090", model=model)
    assert said.exit_code == 1
    assert re.search(
        r"it needs 3\d\.\d GB of memory on 4090:24, which has 24\.0 GB; .*dtype: bfloat16", said.output
    )
    assert plan("--objective", "helpful", "--gpu", "h100", model=model).exit_code == 0
    by_rule = plan("--objective", "helpful", "--gpu", "4090", model={"tiny": seven})
    assert numbers(by_rule.output)["weights opened in"] == "bfloat16"
    assert by_rule.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu", "tpu"], "gpu must be one of 4090:24, a100:40, a100:80, h100:80, l40s:48, got 'tpu'"),
        (["--gpu", "h100:40"], "gpu must be one of"),
        (["--gpu", "h100", "--flops", "1e12"], "--flops must be left out with --gpu"),
        (["--set", "compute.gpu=3"], "compute.gpu must be left out without a GPU, got 3"),
    ],
)
def test_a_card_that_is_not_known_or_not_there_is_refused(plan, monkeypatch, arguments, message):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    said = plan("--objective", "helpful", *arguments)
    assert said.exit_code == 1
    assert message in said.output


# --- a model that is not here -------------------------------------------------------------------


@pytest.fixture
def nothing_is_trained(monkeypatch):
    def fail(*_: Any, **__: Any) -> Any:
        raise AssertionError("weights were made or opened")

    monkeypatch.setattr("topoflow.training.sft.finetune", fail)
    monkeypatch.setattr("topoflow.training.models.open_model", fail)


def test_configuration_and_tokenizer_are_enough(plan, tmp_path, nothing_is_trained):
    model = {"tiny": config_alone(tmp_path / "seven", **SEVEN)}
    said = plan(
        "--objective", "helpful", "--set", "finetune.lora=null recording.behaviour=false", model=model
    )
    assert (
        "of memory" in said.output
    )  # 7 billion weights with gradients and moments: 108 GB, or this machine is large
    model = {"tiny": config_alone(tmp_path / "small")}
    said = plan("--objective", "helpful", model=model)
    assert said.exit_code == 0, said.output
    assert (
        "assumed: rates of the model, whose weights are not here: its operations, at 50% of the "
        in said.output
    )
    assert numbers(said.output)["memory"].endswith("(estimate)")


def test_so_they_are_in_the_cache_of_the_hub(plan, tmp_path, monkeypatch, nothing_is_trained):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    repository, commit = tmp_path / "hub" / "models--owner--name", "0123456789" * 4
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    (repository / "snapshots").mkdir()
    config_alone(repository / "snapshots" / commit)
    said = plan("--objective", "helpful", model={"tiny": {"source": "hub", "id": "owner/name"}})
    assert said.exit_code == 0, said.output
    assert "whose weights are not here" in said.output


# --- how it is measured -------------------------------------------------------------------------


def found_of(tmp_path: Path, rows: list[dict[str, Any]], **finetune: Any) -> tuple[Any, calibration.Found]:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    changed = small_params()
    changed["objective"] = {
        **changed["objective"],
        "helpful": {"source": "file", "path": str(tmp_path / "rows.jsonl")},
    }
    changed["prepare"] = {"n_rows": len(rows)}
    changed["finetune"] = {**changed["finetune"], **finetune}
    params = parse_params(changed)
    return params, calibration.look(params, RUN)


def row(number: int, words: int) -> dict[str, Any]:
    return {"prompt": [user(f"Question {number}?")], "completion": [assistant("more " * words)]}


def test_rows_are_counted_and_drawn_from_all_of_the_data(tmp_path, caplog):
    """Where the first batches are too long the training goes on without them, and so does the plan."""
    rows = [row(n, 100) for n in range(8)] + [row(n, n % 20 + 1) for n in range(8, 64)]
    rows = [rows[at] for at in range(64)]
    params, found = found_of(tmp_path, rows, max_length=200)
    assert len(found.rows) == len(found.texts.rows) == 56
    batch, chosen, whole = calibration._batches(params, found, found.prompts)
    assert (batch, whole, len(chosen)) == (2, True, 8)
    lengths = [found.texts.rows[found.rows.index(one)] for one in chosen]
    assert set(lengths[:2]) == {max(found.texts.rows)}  # the first step says what memory is needed
    assert np.mean(lengths[2:]) == pytest.approx(np.mean(found.texts.rows), rel=0.2)
    assert min(lengths) == min(found.texts.rows)
    assert [record.getMessage() for record in caplog.records] == [
        "8 of 64 training rows are left out: 8 longer than 200 tokens"
    ]
    calibration.measure(params, found, np.ones(2), frozen=True)
    assert len(caplog.records) == 1  # and no other count, of a few rows


@pytest.mark.parametrize(("objective", "frozen"), [("helpful", True), ("theirs", False)])
def test_a_model_is_measured_as_its_run_would_open_it(plan, tmp_path, monkeypatch, objective, frozen):
    """Weights under adapters stay as they are; those of whole models differ from checkpoint to checkpoint."""
    from topoflow.embedded import embedded_folder
    from topoflow.training import models

    for step in (2, 4):
        shutil.copytree(embedded_folder("mini"), tmp_path / "series" / f"checkpoint-{step}")
    opened, asked = models.open_model, []

    def spy(*arguments: Any) -> Any:
        asked.append(arguments[3])
        return opened(*arguments)

    monkeypatch.setattr(models, "open_model", spy)
    theirs = {"source": "checkpoints", "path": str(tmp_path / "series")}
    said = plan("--objective", objective, objective={**small_params()["objective"], "theirs": theirs})
    assert said.exit_code == 0, said.output
    assert asked == [frozen]


def test_the_first_pass_is_left_out(tmp_path, monkeypatch, model_cache):
    """A second that the first step takes longer, and the first recording, is in no rate."""
    from topoflow.training import models

    monkeypatch.setenv("TOPOFLOW_CACHE", str(model_cache))
    params, found = found_of(tmp_path, [row(n, n % 9 + 1) for n in range(20)])
    opened, slept = models.open_model, set()

    def slow(*arguments: Any) -> Any:
        network = opened(*arguments)

        def sleep_once(module: Any, _: Any) -> None:
            if module.training not in slept:
                slept.add(module.training)
                time.sleep(1.5)

        network.get_input_embeddings().register_forward_pre_hook(sleep_once)
        return network

    monkeypatch.setattr(models, "open_model", slow)
    measured = calibration.measure(params, found, np.ones(2), frozen=True)
    assert slept == {True, False}
    assert measured.clock.training_token * 2 * max(found.texts.rows) < 1
    assert measured.clock.forward_token * sum(found.texts.prompts) < 1
    assert measured.cpu.training_token > 0
    assert measured.clock.held_out_token > 0
    assert measured.clock.answered > 0
    assert measured.peak is not None
    assert measured.peak > 10**8


@pytest.mark.parametrize("labels", [None, ["even", "odd"] * 20])
def test_labels_of_prompts_are_found_and_what_they_cost_is_measured(tmp_path, monkeypatch, labels):
    rows = [{"prompt": f"Question {n}?"} | ({"label": labels[n]} if labels else {}) for n in range(40)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    prompts = {"source": "file", "path": str(tmp_path / "prompts.jsonl"), "n_prompts": 40}
    params = parse_params({**small_params(), "prompts": prompts})
    found = calibration.look(params, RUN)
    assert found.texts.classes == ((20, 20) if labels else ())
    rates = calibration._topology_rates(params, [], found)
    assert {"labeling", "way", "probe"} <= {name for name in rates if np.all(rates[name] > 0)} or not labels
    assert labels or not {"labeling", "way", "probe"} & set(rates)


def test_the_clock_is_read_when_an_accelerator_has_done_its_work(monkeypatch):
    done: list[str] = []
    monkeypatch.setattr("torch.accelerator.is_available", lambda: True)
    monkeypatch.setattr("torch.accelerator.synchronize", lambda: done.append("synchronised"))
    monkeypatch.setattr(time, "perf_counter", lambda: done.append("read") or 1.0)
    assert calibration.now()[0] == 1.0
    assert done == ["synchronised", "read"]


def test_threads_are_advised_for_a_model_of_some_size(tmp_path, monkeypatch):
    measured = calibration.Measured(None, None, None, ())  # type: ignore[arg-type]
    params = parse_params(small_params())  # one thread

    def said(cores: int, n_parameters: int) -> str:
        monkeypatch.setattr(planning, "cores", lambda: cores)
        return "\n".join(planning._notes_of_measures(measured, params, n_parameters, Opened()))

    assert "n_threads is 1: 8 would use all cores of this process" in said(8, 10**8)
    assert "n_threads" not in said(8, 10**6)  # threads would wait for one another
    assert "n_threads" not in said(1, 10**8)


# --- the study ----------------------------------------------------------------------------------


def test_a_study_costs_what_its_runs_cost_stage_by_stage_beside_what_it_decides(plan):
    changes = {"seeds": [0, 1], "objectives": ["helpful", "harmless"]}
    said = plan("--study", "--flops", "1e10", **changes)
    assert said.exit_code == 0, said.output
    decides, _, cost = said.output.partition("\n\n")
    assert cost.startswith("What this study costs: 4 runs, one after another\n")
    assert decides.startswith("What this study can decide: 2 objectives")
    lines = {line[:20].strip(): line[20:].split() for line in cost.splitlines()[2:]}
    assert [lines[stage][0] for stage in ("model", "inputs", "finetune", "compare")] == ["1", "2", "4", "1"]
    params = parse_params({**small_params(), **changes})
    one = [
        planning._cost(params, Run("tiny", name, 0), planning.Asked(1e10), None)
        for name in changes["objectives"]
    ]
    assert (
        lines["disk"]
        == readable(
            2 * sum(c.counts.disk_bytes - c.counts.scratch_bytes for c in one) + one[0].counts.scratch_bytes
        ).split()
    )
    assert "CPU" not in cost


def test_a_study_with_a_model_that_is_not_here_says_so_and_still_what_it_decides(plan, tmp_path):
    models = {**small_params()["model"], "gone": {"source": "folder", "path": str(tmp_path / "gone")}}
    said = plan("--study", "--gpu", "a100", models=["tiny", "gone"], model=models)
    assert said.exit_code == 0, said.output
    assert "The cost of gone is not known: " in said.output
    assert "3 runs" in said.output
    assert "What this study can decide: " in said.output


# --- a card, by hand ----------------------------------------------------------------------------

SEVEN_BILLION = Size(7_000_000_000, 40_000_000, 32, 4096, 32_000)
THEIR_TEXTS = Texts([150] * 750, [300] * 8000, assumed=True)
PRESET = load_params(REPOSITORY / "topoflow" / "presets" / "hh_rlhf_7b.yaml")
MIXED = Opened("float32", autocast=True, accelerator=True)


def test_a_pass_takes_as_long_as_its_operations_or_as_what_it_reads():
    rates = Rates.on_card(SEVEN_BILLION, PRESET, THEIR_TEXTS, MIXED, H100)
    per_second, bytes_per_second = EFFICIENCY * 989e12, BANDWIDTH_EFFICIENCY * 3.35e12
    assert rates.training_token == pytest.approx((6 * 7e9 + 2 * 40e6) / per_second)  # blocks go forward twice
    assert rates.forward_token == pytest.approx(2 * 7e9 / per_second)
    few = Texts([2] * 750, [2] * 8000)  # so few tokens that reading weights takes longer
    rates = Rates.on_card(SEVEN_BILLION, PRESET, few, MIXED, H100)
    read = 4 * 7e9 + 2 * 2 * 7e9  # as float32; written and read as bfloat16
    assert rates.forward_token == pytest.approx(47 * read / bytes_per_second / (750 * 2))
    assert rates.training_token == pytest.approx((3 * read + 7 * 4 * 40e6 / 4) / bytes_per_second / 8)
    alone = Opened("bfloat16", accelerator=True)
    assert Rates.on_card(SEVEN_BILLION, PRESET, few, alone, H100).forward_token == pytest.approx(
        47 * 2 * 7e9 / bytes_per_second / (750 * 2)
    )
    slow = Rates.on_card(SEVEN_BILLION, PRESET, THEIR_TEXTS, Opened(accelerator=True), H100)
    assert slow.forward_token == pytest.approx(2 * 7e9 / (EFFICIENCY * 67e12))


def test_cards_are_those_that_their_makers_describe():
    for name, found in CARDS.items():
        assert found.memory == int(name.partition(":")[2]) * 10**9
        assert (
            found.float32 < found.bfloat16 < 1e15
        )  # dense: data sheets also print twice as much, for half zeros
        assert found.source
    assert card("A100") is CARDS["a100:80"]
    with refused(name="gpu", got="v100"):
        card("v100")


# --- the page -----------------------------------------------------------------------------------

PAGE = (REPOSITORY / "docs/how-to/cost.md").read_text(encoding="utf-8")


def rows_of(comment: str) -> list[list[str]]:
    table = PAGE.partition(f"<!-- {comment} -->\n\n")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def test_each_line_of_the_arithmetic_on_the_page_is_what_it_says_and_what_the_formulas_give():
    counts = count(PRESET, SEVEN_BILLION, THEIR_TEXTS, opened=MIXED)
    rates = Rates.on_card(SEVEN_BILLION, PRESET, THEIR_TEXTS, MIXED, H100)
    memory = counts.memory.device
    seconds = {
        "a step": 4 * 1200 * rates.training_token,
        "training": counts.training_tokens * rates.training_token,
        "a recording": counts.prompt_tokens * rates.forward_token,
        "comparing its answers": counts.compared * rates.compared,
        "opening the model": rates.open_model,
        "finetune in all": estimate(counts, rates, 16)["finetune"],
    }
    rows = rows_of("a 7B on an H100, line by line")
    assert [name for name, *_ in rows] == [*memory, "memory of the GPU", *seconds]
    for name, arithmetic, result in rows:
        value = eval(arithmetic.strip("`"), {"__builtins__": {}}, {"sum": sum})
        if name in seconds:
            assert value == pytest.approx(seconds[name], rel=0.01), name
            assert result == f"{seconds[name]:.3g} s", name
        else:
            exact = memory.get(name, counts.device_bytes)
            assert value == pytest.approx(exact, rel=1e-6), name
            assert result == readable(exact), name


def test_the_cards_on_the_page_are_those_of_the_code_and_so_is_what_a_7b_needs_of_them():
    counts = {
        "bfloat16": count(PRESET, SEVEN_BILLION, THEIR_TEXTS, opened=Opened("bfloat16", accelerator=True)),
        "float32": count(PRESET, SEVEN_BILLION, THEIR_TEXTS, opened=MIXED),
    }
    rows = rows_of("the cards of topoflow.study.cards")
    assert [name.strip("`") for name, *_ in rows] == list(CARDS)
    for name, bfloat16, float32, bandwidth, fits, minutes, *_ in rows:
        found = CARDS[name.strip("`")]
        assert [bfloat16, float32, bandwidth] == [
            f"{1e-12 * found.bfloat16:.3g}", f"{1e-12 * found.float32:.3g}", f"{1e-12 * found.bandwidth:.3g}"
        ]  # fmt: skip
        holds = [dtype for dtype in counts if counts[dtype].device_bytes <= found.memory]
        assert fits == (", ".join(holds) or "no")
        if holds:
            held = Opened("bfloat16", accelerator=True)
            rates = Rates.on_card(SEVEN_BILLION, PRESET, THEIR_TEXTS, held, found)
            spent = estimate(counts["bfloat16"], rates, 16)["finetune"]
            assert minutes == f"{spent / 60:.1f}"
