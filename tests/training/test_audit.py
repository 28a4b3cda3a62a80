"""What is wrong with a series of checkpoints is found in its listing, in its folders, and in its recorded states."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from huggingface_hub import constants
from safetensors.numpy import save_file
from support import refused

from topoflow import storage
from topoflow.cli import main
from topoflow.config import CheckpointFolder, HubCheckpoints
from topoflow.errors import InvalidFile
from topoflow.storage.layout import Run
from topoflow.study import audit as audits
from topoflow.training import order
from topoflow.training.audit import Listed, audit_listing, audit_states, lacking, of_folder, of_hub

# --- listings -----------------------------------------------------------------------------------

A, B, C, D = ("abcd"[n] * 64 for n in range(4))
# A public series with what is wrong with public series, by step: step1 repeats step0, step2000 repeats step1000,
# step3000 has no weights, step4000 lacks its second shard.
SERIES: dict[int, dict[str, str | None]] = {
    0: {"model.safetensors": A},
    1: {"model.safetensors": A},
    512: {"model.safetensors": B},
    1000: {"model.safetensors": C},
    2000: {"model.safetensors": C},
    3000: {},
    4000: {"model-00001-of-00002.safetensors": D},
}


def listed(series: dict[int, dict[str, str | None]], **same: Any) -> list[Listed]:
    return [Listed(step, f"step{step}", weights, **same) for step, weights in series.items()]


def short(findings: Any) -> list[tuple[str, tuple[int, ...]]]:
    return [(finding.kind, finding.steps) for finding in findings]


def test_everything_that_is_wrong_with_a_public_series_is_found_and_nothing_else():
    found = audit_listing(listed(SERIES))
    assert short(found) == [
        ("missing", (3000,)),
        ("missing", (4000,)),
        ("same", (0, 1)),
        ("same", (1000, 2000)),
    ]
    assert [finding.stops for finding in found] == [True, True, False, False]
    assert "model-00002-of-00002.safetensors" in found[1].what


def test_the_order_of_a_listing_does_not_matter():
    backwards = dict(reversed(SERIES.items()))
    assert short(audit_listing(listed(backwards))) == short(audit_listing(listed(SERIES)))


def test_two_that_have_changed_places_with_copies_of_one_another_are_told_by_their_hashes():
    """Branches that serve the weights of another step: 200 serves 300's as well as its own place being lost."""
    series = {100: {"model.safetensors": A}, 200: {"model.safetensors": C}, 300: {"model.safetensors": C}}
    assert short(audit_listing(listed(series))) == [("same", (200, 300))]


def test_one_format_that_is_of_another_step_is_named():
    series = {step: {"pytorch_model.bin": own, "model.safetensors": C} for step, own in ((1, A), (2, B))}
    (found,) = audit_listing(listed(series))
    assert (found.kind, found.steps) == ("same", (1, 2))
    assert ".safetensors" in found.what


def test_shards_are_compared_as_a_whole():
    names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    part = {1: dict(zip(names, (A, B), strict=True)), 2: dict(zip(names, (A, C), strict=True))}
    assert audit_listing(listed(part)) == []
    part[3] = dict(zip(names, (A, B), strict=True))
    assert short(audit_listing(listed(part))) == [("same", (1, 3))]


def test_a_listing_without_hashes_says_so_and_calls_nothing_the_same():
    series: dict[int, dict[str, str | None]] = {step: {"model.safetensors": None} for step in (1, 2)}
    assert short(audit_listing(listed(series))) == [("unknown", (1,)), ("unknown", (2,))]


def test_weights_that_would_have_to_be_unpickled_stop_a_recording():
    (found,) = audit_listing(listed({1: {"pytorch_model.bin": A}, 2: {"pytorch_model.bin": B}}))
    assert (found.kind, found.steps, found.stops) == ("missing", (1, 2), True)


@pytest.mark.parametrize(
    ("odd", "stops"),
    [
        ({"config": "other"}, False),
        ({"sizes": {"model.safetensors": 2_000}}, False),
        ({"sizes": {"model.safetensors": 1_020}}, False),
        ({"architecture": {"set of tensors": "other"}}, True),
    ],
)
def test_another_architecture_is_found_as_far_as_a_listing_can_tell(odd, stops):
    usual = {"config": "c", "sizes": {"model.safetensors": 1_000}, "architecture": {"set of tensors": "t"}}
    series = [Listed(n, f"step{n}", {"model.safetensors": str(n)}, **usual) for n in range(4)]
    assert audit_listing(series) == []
    series[2] = Listed(2, "step2", {"model.safetensors": "2"}, **{**usual, **odd})
    (found,) = audit_listing(series)
    assert (found.kind, found.steps, found.stops) == ("architecture", (2,), stops)


def test_a_header_that_is_a_little_longer_is_no_other_architecture():
    sizes = (1_000_000, 1_000_024, 1_000_016)
    series = [
        Listed(n, str(n), {"model.safetensors": str(n)}, {"model.safetensors": s})
        for n, s in enumerate(sizes)
    ]
    assert audit_listing(series) == []


@pytest.mark.parametrize(
    ("steps", "lost"),
    [
        ([500, 1000, 1500, 2500, 3000], (2000,)),
        ([10, 20, 30, 60, 70, 80, 90, 100], (40, 50)),
        ([2, 4, 6, 8, 11, 13, 15], ()),  # 5 is no multiple of 2: another series
        ([0, 1, 2, 4, 8, 16, 64, 128, 256, 512], (32,)),
        ([*range(0, 143_001, 1000)], ()),
        (
            [
                0,
                1,
                2,
                4,
                8,
                16,
                32,
                64,
                128,
                256,
                512,
                *range(1000, 9000, 1000),
                *range(10_000, 143_001, 1000),
            ],
            (9000,),
        ),
        ([0, 1, 10, 11, 20, 21, 30, 31], ()),  # twins
        (
            [*range(10), *range(11, 17), 18, 19, 21, 22, 25, 26, 30, 31, 47, 48],
            (),
        ),  # twins in learning-rate time
        ([100, 200, 300, 320], ()),  # the last of a training
        ([0, 100, 1000], ()),
        ([7], ()),
        ([], ()),
    ],
)
def test_gaps_of_even_series_are_found_and_uneven_ones_have_none(steps, lost):
    assert lacking(steps) == lost
    series = listed({step: {"model.safetensors": str(step)} for step in steps})
    assert short(audit_listing(series)) == ([("gap", lost)] if lost else [])
    assert audit_listing(series, whole=False) == []


# --- folders ------------------------------------------------------------------------------------


def tensors(step: int, n: int = 3000) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(step)
    return {name: rng.normal(size=(n, 2)).astype(np.float32) for name in ("embed", "block.0", "block.1")}


def write_model(folder: Path, weights: dict[str, np.ndarray], says: Any, shards: bool = False) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": says}))
    if not shards:
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
        return
    where = {}
    for number, (name, tensor) in enumerate(sorted(weights.items()), start=1):
        where[name] = f"model-{number:05d}-of-{len(weights):05d}.safetensors"
        save_file({name: tensor}, folder / where[name])
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Five checkpoints of a training, with nothing wrong."""
    for step in (10, 20, 30, 40, 50):
        write_model(tmp_path / "out" / f"checkpoint-{step}", tensors(step), step)
    return tmp_path / "out"


def of(home: Path) -> list[tuple[str, tuple[int, ...]]]:
    return short(audits.audit(str(home)).findings)


def test_a_sound_folder_has_no_findings(home):
    assert of(home) == []


def test_the_same_tensors_are_found_in_other_files(home):
    shutil.rmtree(home / "checkpoint-40")
    write_model(home / "checkpoint-40", tensors(20), 40, shards=True)
    assert of(home) == [("same", (20, 40))]


def test_tensors_that_begin_alike_are_read_to_their_ends(home):
    shutil.rmtree(home / "checkpoint-40")
    changed = tensors(20)
    changed["block.1"][-1, -1] += 1  # beyond the first bytes
    write_model(home / "checkpoint-40", changed, 40)
    assert of(home) == []


def test_a_folder_under_another_name_is_told_by_its_trainer_state(home):
    (home / "checkpoint-20").rename(home / "kept")
    (home / "checkpoint-30").rename(home / "checkpoint-20")
    (home / "kept").rename(home / "checkpoint-30")
    assert of(home) == [("order", (20,)), ("order", (30,))]
    (home / "checkpoint-20" / "trainer_state.json").write_text("")
    (home / "checkpoint-30" / "trainer_state.json").write_text('{"global_step": "thirty"}')
    assert of(home) == []  # nothing is known, and nothing is said


def test_a_copy_under_another_name_is_found_twice_over(home):
    shutil.rmtree(home / "checkpoint-50")
    shutil.copytree(home / "checkpoint-10", home / "checkpoint-50")
    assert of(home) == [("same", (10, 50)), ("order", (50,))]


def test_other_tensors_are_another_architecture(home):
    shutil.rmtree(home / "checkpoint-30")
    write_model(home / "checkpoint-30", tensors(30, n=2000), 30)
    (found,) = audits.audit(str(home)).findings
    assert (found.kind, found.steps, found.stops) == ("architecture", (30,), True)


def test_damaged_and_empty_folders_are_named_and_the_others_are_read(home):
    whole = (home / "checkpoint-20" / "model.safetensors").read_bytes()
    (home / "checkpoint-20" / "model.safetensors").write_bytes(whole[:-5])
    (home / "checkpoint-30" / "model.safetensors").unlink()
    shutil.rmtree(home / "checkpoint-50")
    write_model(home / "checkpoint-50", tensors(50), 50, shards=True)
    (home / "checkpoint-50" / "model-00002-of-00003.safetensors").unlink()
    assert of(home) == [("unreadable", (20,)), ("missing", (30,)), ("unreadable", (50,))]


def test_a_step_that_is_lost_is_named_unless_steps_were_chosen(home):
    shutil.rmtree(home / "checkpoint-30")
    write_model(home / "checkpoint-60", tensors(60), 60)
    write_model(home / "checkpoint-70", tensors(70), 70)
    assert of(home) == [("gap", (30,))]
    assert audits.audit(str(home), steps=(10, 20, 40, 50, 60, 70)).findings == ()


def test_adapters_are_read_as_models_are(home):
    for folder in home.iterdir():
        (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
        base = "a/b" if folder.name != "checkpoint-30" else "c/d"
        (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
        (folder / "config.json").unlink()
    shutil.copy(
        home / "checkpoint-10/adapter_model.safetensors", home / "checkpoint-20/adapter_model.safetensors"
    )
    assert of(home) == [("architecture", (30,)), ("same", (10, 20))]


def test_planted_duplicates_are_all_found_and_nothing_else(tmp_path):
    for seed in range(20):
        rng, home = np.random.default_rng(seed), tmp_path / str(seed)
        steps = np.arange(1, 9) * 5
        original, copy = rng.choice(steps, 2, replace=False).tolist()
        for step in steps.tolist():
            write_model(home / f"checkpoint-{step}", tensors(original if step == copy else step, 8), step)
        listing = of_folder({step: home / f"checkpoint-{step}" for step in steps.tolist()})
        assert short(audit_listing(listing)) == [("same", tuple(sorted((original, copy))))]


# --- the Hub ------------------------------------------------------------------------------------


def git_hash(text: str) -> str:
    return text.ljust(40, "0")


@pytest.fixture
def hub(monkeypatch, tmp_path) -> Iterator[list[str]]:
    """A Hub with the series above as branches, `main` at the last, and what it was asked."""
    asked: list[str] = []
    commits = {f"step{step}": f"{step:040x}" for step in SERIES}
    trees = {commits[f"step{step}"]: weights for step, weights in SERIES.items()}

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            *_, last = self.path.partition("?")[0].split("/")
            if last == "refs":
                named = {**commits, "main": commits["step2000"], "step01-old": commits["step512"]}
                branches = [
                    {"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in named.items()
                ]
                answer: Any = {"branches": branches, "tags": [], "converts": []}
            else:
                answer = [{"type": "file", "path": "config.json", "size": 9, "oid": git_hash("c")}]
                answer += [{"type": "directory", "path": "logs", "oid": git_hash("e")}]
                answer += [
                    {"type": "file", "path": path, "size": 1000, "oid": git_hash("p"),
                     "lfs": {"oid": seen, "size": 1000, "pointerSize": 130}}
                    for path, seen in trees[last].items()
                ]  # fmt: skip
            body = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield asked
    server.shutdown()
    server.server_close()


def test_revisions_are_listed_by_one_call_each_and_nothing_is_downloaded(hub):
    found = audits.audit(hub="owner/name", revisions={f"step{step}": None for step in SERIES})
    assert short(found.findings) == short(audit_listing(listed(SERIES)))
    calls = [path for path in hub if "/tree/" in path]
    assert len(calls) == len(set(calls)) == len(SERIES)
    assert not [path for path in hub if "/resolve/" in path]


def test_without_revisions_all_that_say_their_step_are_listed(hub):
    found = audits.audit(hub="owner/name")
    assert found.steps == tuple(sorted(SERIES))  # main says none, and step01-old is step1 again


def test_a_revision_that_is_another_name_of_a_commit_costs_no_call_and_is_found(hub):
    (found,) = audit_listing(of_hub("owner/name", {2000: "step2000", 143000: "main"}))
    assert (found.kind, found.steps) == ("same", (2000, 143000))
    assert len([path for path in hub if "/tree/" in path]) == 1


def test_a_recording_is_refused_before_it_begins_where_revisions_lack_weights(hub, capsys):
    source = HubCheckpoints("owner/{model}", ("step0", "step1", "step3000"))
    with refused(InvalidFile, path="owner/name", problem="step3000 has no weights."):
        audits.before_recording(source, Run("name", "x", 0))
    assert "2 findings" in capsys.readouterr().out
    audits.before_recording(HubCheckpoints("owner/name", ("step0", "step1", "step512")), Run("name", "x", 0))
    assert "1 finding." in capsys.readouterr().out  # which does not stop it


def test_without_a_network_a_recording_says_that_it_was_not_audited(hub, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    audits.before_recording(HubCheckpoints("owner/name", ("step0", "step1")), Run("name", "x", 0))
    assert "not audited" in capsys.readouterr().out
    assert hub == []


def test_a_recording_says_first_what_was_found(home, monkeypatch, capsys):
    from topoflow.study import run as study

    called = []
    monkeypatch.setattr(study, "resolve_record", lambda *_: ("tiny", "theirs", []))
    monkeypatch.setattr(study, "resolve", lambda *_: (Run("tiny", "theirs", 0), {}))
    source = CheckpointFolder(str(home))
    monkeypatch.setattr(
        study, "parse_params", lambda _: type("Params", (), {"checkpoints": lambda *_: source})()
    )
    monkeypatch.setattr(study, "run", lambda *_: called.append(capsys.readouterr().out) or "id")
    assert study.record({"source": "checkpoints", "path": str(home)}) == "id"
    assert f"5 checkpoints in {home}: nothing was found." in " ".join(called[0].split())
    (home / "checkpoint-20" / "model.safetensors").unlink()
    with refused(InvalidFile, path=str(home), problem="checkpoint-20 has no weights."):
        study.record({"source": "checkpoints", "path": str(home)})
    assert len(called) == 1


# --- recorded states ----------------------------------------------------------------------------

STEPS = (0, 1, 4, 5, 8, 9, 12, 13, 20, 30, 40, 60)


def walk(seed: int, steps: tuple[int, ...] = STEPS, jitter: float = 0.3) -> np.ndarray:
    """Clouds (n_layers, n_checkpoints, n_prompts, hidden_size) that move at random, more in a longer time."""
    rng = np.random.default_rng(seed)
    begin = 5 * rng.normal(size=(2, 1, 20, 6))
    far = rng.normal(size=(2, len(steps) - 1, 20, 6)) * np.sqrt(np.diff(steps))[:, None, None]
    path = np.concatenate([begin, begin + far.cumsum(axis=1)], axis=1)
    noise = jitter * rng.normal(size=path.shape)
    noise[:, 0] = 0
    return path + noise


def states(folder: Path, clouds: np.ndarray, steps: tuple[int, ...] = STEPS) -> storage.StoredSet:
    names = []
    for layer, series in enumerate(clouds, start=1):
        for step, cloud in zip(steps, series, strict=True):
            names.append(f"step_{step:06d}/layer_{layer:02d}.npy")
            storage.write_file(folder / names[-1], storage.array_bytes(cloud.astype(np.float32)))
    shape = {"n_prompts": clouds.shape[2], "hidden_size": clouds.shape[3]}
    manifest = {"format": storage.ACTIVATIONS, "steps": list(steps), "layers": [1, 2], **shape}
    storage.seal(folder, manifest, names)
    return storage.open_set(folder, storage.ACTIVATIONS)


def test_states_in_their_order_have_no_findings(tmp_path):
    assert audit_states(states(tmp_path, walk(0))) == []


def test_states_of_swapped_steps_are_named_by_their_steps(tmp_path):
    clouds = walk(0)
    clouds[:, [4, 6]] = clouds[:, [6, 4]]
    (found,) = audit_states(states(tmp_path, clouds))
    assert (found.kind, found.steps, found.stops) == ("order", (8, 12), False)


def test_states_of_a_step_that_stands_elsewhere_are_given_their_place(tmp_path):
    clouds = walk(0)
    moved = np.insert(np.delete(np.arange(12), 9), 3, 9)  # step 30's stand third
    (found,) = audit_states(states(tmp_path, clouds[:, moved]))
    assert (found.kind, found.steps) == ("order", (5,))
    assert "fit between 40 and 30" in found.what or "fit between 30 and 40" in found.what


def test_states_that_are_those_of_another_step_or_of_another_model_or_not_finite_are_named(tmp_path):
    clouds = walk(0)
    clouds[:, 5] = clouds[:, 4]
    clouds[:, 7] += 50 * np.random.default_rng(1).normal(size=clouds[:, 7].shape)
    clouds[0, 10, 0, 0] = np.nan
    found = audit_states(states(tmp_path, clouds))
    assert short(found) == [("same", (8, 9)), ("off", (40,)), ("off", (13,))]  # in order, but for these


def test_a_few_checkpoints_say_nothing_of_order(tmp_path):
    steps = STEPS[:5]
    clouds = walk(0, steps)
    clouds[:, [1, 3]] = clouds[:, [3, 1]]
    assert audit_states(states(tmp_path, clouds, steps)) == []


def test_states_of_which_none_is_finite_are_named_and_nothing_else(tmp_path):
    clouds = walk(0)
    clouds[1, :, 3, 2] = np.inf
    assert short(audit_states(states(tmp_path, clouds))) == [("off", STEPS)]


def squared(clouds: np.ndarray) -> np.ndarray:
    return np.array([order.squared_distances(layer) for layer in clouds])


def test_no_more_than_2_of_100_sound_series_raise_an_alarm():
    assert sum(bool(order.misfits(squared(walk(seed)))) for seed in range(100)) <= 2


def test_every_planted_swap_is_found_where_movement_is_more_than_jitter():
    """Of checkpoints that are no twins of one another, and no ends."""
    for seed in range(60):
        rng = np.random.default_rng(seed)
        i, j = sorted(rng.choice(np.arange(1, 11), 2, replace=False).tolist())
        if STEPS[j] == STEPS[i] + 1:
            continue
        clouds = walk(seed, jitter=0.1)
        clouds[:, [i, j]] = clouds[:, [j, i]]
        assert {i, j} & {at for found in order.misfits(squared(clouds)) for at in found.at}, (seed, i, j)


def test_jitter_alone_has_no_order():
    rng = np.random.default_rng(0)
    still = rng.normal(size=(100, 2, 12, 20, 6))
    assert sum(bool(order.misfits(squared(clouds))) for clouds in still) <= 2


def test_twins_that_differ_by_jitter_may_stand_either_way():
    alarms = 0
    for seed in range(50):
        clouds = walk(seed, jitter=3.0)
        clouds[:, [4, 5]] = clouds[:, [5, 4]]
        alarms += bool(order.misfits(squared(clouds)))
    assert alarms <= 1


def test_the_unit_of_a_layer_does_not_matter_nor_does_one_that_stands_still():
    clouds = walk(3)
    clouds[:, [4, 8]] = clouds[:, [8, 4]]
    found = order.misfits(squared(clouds))
    assert [one.at for one in found] == [(4, 8)]
    scaled = np.concatenate([clouds * np.array([1e6, 1e-6])[:, None, None, None], 0 * clouds[:1]])
    again = order.misfits(squared(scaled))
    assert [(one.kind, one.at) for one in again] == [(one.kind, one.at) for one in found]


@pytest.mark.parametrize("wrong", [np.zeros((3, 3)), np.zeros((1, 2, 3)), np.full((1, 6, 6), np.nan)])
def test_what_are_no_distances_is_refused(wrong):
    with refused(name="squared", got=wrong.shape):
        order.misfits(wrong)


# --- the command --------------------------------------------------------------------------------


def call(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["audit", *arguments])


def test_the_exit_code_says_whether_something_was_found(home, tmp_path):
    sound = call(str(home))
    assert (sound.exit_code, "nothing was found" in " ".join(sound.output.split())) == (0, True)
    shutil.copy(home / "checkpoint-10/model.safetensors", home / "checkpoint-20/model.safetensors")
    found = call(str(home))
    assert found.exit_code == 1
    assert "checkpoint-20 has the weights of" in " ".join(found.output.split())
    for arguments in (
        (str(tmp_path / "nowhere"),),
        (),
        (str(home), "--hub", "a/b"),
        (str(home), "--steps", "x"),
    ):
        assert call(*arguments).exit_code == 2, arguments
    for arguments in ((str(home), "--revisions", "step1"), ("--hub", "a/b", "--steps", "1")):
        refusal = call(*arguments)
        assert (refusal.exit_code, "left out" in refusal.output) == (2, True)


def test_findings_are_printed_as_json_alone(home):
    (home / "checkpoint-20" / "model.safetensors").unlink()
    result = call(str(home), "--json")
    assert result.exit_code == 1
    printed = json.loads(result.output)
    (found,) = printed["findings"]
    assert (found["kind"], found["steps"], found["stops"]) == ("missing", [20], True)
    assert (printed["steps"], printed["looked_at"]) == ([10, 20, 30, 40, 50], "weights")


def test_a_set_of_recorded_states_is_audited_as_states(tmp_path):
    clouds = walk(0)
    clouds[:, [4, 6]] = clouds[:, [6, 4]]
    states(tmp_path / "set", clouds)
    result = call(str(tmp_path / "set"))
    assert result.exit_code == 1
    assert "Audit of the states of 12 checkpoints" in result.output
    assert call(str(tmp_path / "set"), "--steps", "1").exit_code == 2
