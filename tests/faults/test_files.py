"""Files that were damaged or made to do harm: an InvalidFile that names each, in bounded memory, whatever it holds.

`TOPOFLOW_FAULT_TRIES` scales the number of inputs: 1 is what CI runs, 40 the hundred thousand of docs/RELIABILITY.md.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import REPOSITORY, put, refused, small_params

from topoflow import storage
from topoflow.config import parse_params, read_mapping
from topoflow.errors import InvalidFile
from topoflow.storage import layout, sets
from topoflow.training.dialogues import parse_rows
from topoflow.training.objectives import read_jsonl

TRIES = float(os.environ.get("TOPOFLOW_FAULT_TRIES", "1"))
fuzzed = settings(
    max_examples=max(int(250 * TRIES), 20),
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)

CLOUD = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
BARS = [
    [np.array([[0.0, 1.0], [0.0, np.inf]]), np.array([[0.5, 0.75]])],
    [np.array([[0.0, 2.0]]), np.empty((0, 2))],
]
MANIFEST = storage.json_bytes(
    {
        "format": storage.ACTIVATIONS,
        "steps": [0, 2],
        "layers": [1],
        "files": {"step_000000/layer_01.npy": "0" * 64},
    }
)


@st.composite
def damaged(draw, whole: bytes):
    """Bytes of a whole file with some of them changed, cut, repeated or put in; or any bytes at all."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        change = draw(st.sampled_from(("flip", "cut", "insert", "repeat", "any")))
        if change == "flip" and at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
        elif change == "cut":
            del data[at : at + draw(st.integers(1, 64))]
        elif change == "insert":
            data[at:at] = draw(
                st.binary(max_size=16) | st.sampled_from([b"[" * 5000, b"9" * 400, b"-1", b"{", b'"'])
            )
        elif change == "repeat":
            data[at:at] = data[: draw(st.integers(0, 128))]
        else:
            data = bytearray(draw(st.binary(max_size=300)))
    return bytes(data)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def answers_or_refuses(read, path: Path) -> None:
    try:
        read()
    except ValueError as error:
        assert str(error)
    except OSError as error:
        pytest.fail(f"{path}: {error!r}")


@fuzzed
@given(data=damaged(storage.array_bytes(CLOUD)))
def test_any_npy_is_a_cloud_or_refused_by_name(scratch, data):
    path = scratch / "cloud.npy"
    path.write_bytes(data)
    try:
        cloud = sets._load_array(path, ("float16", "float32", "float64"), (None, None))
    except InvalidFile as error:
        assert (error.path, error.problem[:18]) == (path, "must hold an array")
    else:
        assert cloud.ndim == 2
        assert cloud.nbytes <= len(data)


@fuzzed
@given(data=damaged(storage.diagram_bytes(BARS)))
def test_any_npz_is_diagrams_or_refused_by_name(scratch, data):
    path = scratch / "step_000000" / "layer_01.npz"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    stored = storage.StoredSet(
        scratch, {"steps": [0], "layers": [1], "files": {"step_000000/layer_01.npz": ""}}, ""
    )
    try:
        diagrams = stored.diagrams(0, 1)
    except InvalidFile as error:
        assert (error.path, error.problem[:31]) == (path, "must hold persistence diagrams ")
    else:
        for pair in diagrams:
            for bars in pair:
                assert bars.shape[1] == 2
                assert (bars[:, 0] <= bars[:, 1]).all()


arrays = {name: st.binary(max_size=40) for name in ("h0.npy", "h0_offsets.npy", "h1.npy", "h1_offsets.npy")}
good = {
    "h0.npy": storage.array_bytes(np.zeros((2, 2))),
    "h0_offsets.npy": storage.array_bytes(np.array([0, 2])),
    "h1.npy": storage.array_bytes(np.zeros((0, 2))),
    "h1_offsets.npy": storage.array_bytes(np.array([0, 0])),
}


@fuzzed
@given(which=st.sampled_from(sorted(good)), data=st.data())
def test_a_whole_zip_of_damaged_arrays_is_refused_by_name(scratch, which, data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, member in good.items():
            archive.writestr(name, data.draw(damaged(member)) if name == which else member)
    path = scratch / "step_000000" / "layer_01.npz"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(buffer.getvalue())
    stored = storage.StoredSet(
        scratch, {"steps": [0], "layers": [1], "files": {"step_000000/layer_01.npz": ""}}, ""
    )
    answers_or_refuses(lambda: stored.diagrams(0, 1), path)


@fuzzed
@given(data=damaged(MANIFEST))
def test_any_manifest_is_read_or_refused_by_name(scratch, data):
    (scratch / storage.MANIFEST).write_bytes(data)
    with pytest.raises(InvalidFile) as caught:
        storage.open_set(scratch, storage.ACTIVATIONS)  # for want of the file, even where all else is right
    assert caught.value.path.is_relative_to(scratch)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@fuzzed
@given(key=st.sampled_from(["format", "steps", "layers", "files"]), value=values)
def test_a_manifest_of_any_json_is_refused(scratch, key, value):
    (scratch / storage.MANIFEST).write_bytes(json.dumps({**json.loads(MANIFEST), key: value}).encode())
    try:
        storage.open_set(scratch, storage.ACTIVATIONS)
    except ValueError as error:
        assert str(error)
    else:
        assert value == {}  # a set of no files, and the only one that may pass


@fuzzed
@given(data=damaged(b"layer,step,h1_velocity\n1,2,0.5\n1,4,\n"))
def test_any_table_is_numbers_or_refused_by_name(scratch, data):
    path = scratch / "table.csv"
    path.write_bytes(data)
    try:
        rows = layout.read_table(path)
    except ValueError as error:
        assert str(path) in str(error)
    else:
        assert all(isinstance(value, float) for row in rows for value in row.values())


@fuzzed
@given(
    data=damaged(b'{"prompt": "a", "completion": "b"}\n{"messages": [{"role": "user", "content": "x"}]}\n')
)
def test_any_json_lines_are_rows_or_refused_by_name(scratch, data):
    path = scratch / "rows.jsonl"
    path.write_bytes(data)
    try:
        list(parse_rows(read_jsonl(path), str(path)))
    except ValueError as error:
        assert str(path) in str(error)


FORMS = ["chosen", "messages", "prompt", "conversations", "instruction", "system", "tools"]


@fuzzed
@given(value=values, form=st.sampled_from([*FORMS, "completion"]))
def test_rows_of_any_json_are_parsed_or_refused_by_number(value, form):
    row = {"prompt": "p", form: value} if form == "completion" else {form: value}
    try:
        list(parse_rows([row], "here"))
    except ValueError as error:
        assert "row 1 of here" in str(error)


@fuzzed
@given(data=damaged(yaml.safe_dump(small_params()).encode()))
def test_any_params_yaml_is_read_or_refused(scratch, data):
    path = scratch / "params.yaml"
    path.write_bytes(data)
    answers_or_refuses(lambda: parse_params(read_mapping(path)), path)


@fuzzed
@given(
    path=st.sampled_from(["finetune.lora", "model.tiny", "recording.layers", "objective.mixed", "seeds"]),
    value=values,
)
def test_params_of_any_yaml_values_are_read_or_refused(path, value):
    params = put(small_params(), path, value)
    try:
        parse_params(params)
    except ValueError as error:
        assert str(error)


@fuzzed
@given(
    data=damaged(
        b'{"key": "' + b"a" * 32 + b'", "store": "' + b"b" * 64 + b'", "status": "FAILED", "ended": 1}'
    )
)
def test_any_note_of_a_run_is_read_or_left_alone(scratch, data):
    from topoflow.tracking.unfinished import _opened, _read

    path = scratch / "note.json"
    path.write_bytes(data)
    opened = _opened(path)
    note = _read(path, opened)
    os.close(opened)
    assert note is None or note.status in ("FINISHED", "FAILED", "KILLED")


# --- made to do harm ----------------------------------------------------------------------------


def npy(header: bytes, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + data


def bomb(size: int) -> bytes:
    """A zip whose members unpack to `size` bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in good:
            with archive.open(name, "w", force_zip64=True) as member:
                for _ in range(size >> 22):
                    member.write(bytes(1 << 20))
    return buffer.getvalue()


HEADER = b"{'descr': '<f8', 'fortran_order': False, 'shape': (%s), }\n"
HOSTILE = {
    "npy of objects": (".npy", lambda: pickled_npy()),
    "a bare pickle": (".npy", lambda: pickle.dumps(print)),
    "a terabyte in the header": (".npy", lambda: npy(HEADER % b"1 << 40, 8")),
    "a shape of a terabyte": (".npy", lambda: npy(HEADER % b"1099511627776, 8")),
    "a negative shape": (".npy", lambda: npy(HEADER % b"-1, -8", bytes(64))),
    "a header of 64 KB": (".npy", lambda: npy(b"(" * 65000)),
    "a header of minus signs": (".npy", lambda: npy(b"-" * 9000 + b"1")),
    "code in the header": (".npy", lambda: npy(b"__import__('os').mkdir('sprung')\n")),
    "a zip bomb of 512 MiB": (".npz", lambda: bomb(512 << 20)),
    "a zip of a zip's own size": (".npz", lambda: bomb(4 << 20)),
}


def pickled_npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([print], dtype=object), allow_pickle=True)
    return buffer.getvalue()


READ = """
import resource, sys
from topoflow import storage
import numpy as np
import zipfile
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
stored = storage.open_set("set", sys.argv[1])
try:
    stored.point_cloud(0, 1) if sys.argv[1] == storage.ACTIVATIONS else stored.diagrams(0, 1)
except ValueError as error:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024, error)
"""


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_is_made_to_do_harm_is_refused_in_bounded_memory(tmp_path, kind):
    suffix, make = HOSTILE[kind]
    form = storage.ACTIVATIONS if suffix == ".npy" else storage.DIAGRAMS
    name = storage.cell_name(0, 1) + suffix
    storage.write_file(tmp_path / "set" / name, make())
    storage.seal(tmp_path / "set", {"format": form, "steps": [0], "layers": [1]}, [name])
    result = subprocess.run(
        [sys.executable, "-c", READ, form], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    grown, message = result.stdout.split(" ", 1)
    assert int(grown) < 64  # MiB
    assert message.startswith(f"set/{name} must hold ")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "name",
    [
        "../outside.npy",
        "/etc/hostname",
        "a/../../b",
        "a//b",
        ".",
        "",
        "a\n",
        "\ud800",
        "a" * 300,
        "~/x",
        "-/..",
        "a\\b",
    ],
)
def test_a_manifest_may_name_files_inside_its_set_alone(tmp_path, name):
    facts = {"format": storage.ACTIVATIONS, "steps": [0], "layers": [1], "files": {name: "0" * 64}}
    (tmp_path / storage.MANIFEST).write_text(json.dumps(facts))
    with refused(InvalidFile, path=tmp_path / storage.MANIFEST, problem="files must be named inside the set"):
        storage.open_set(tmp_path, storage.ACTIVATIONS)


@pytest.mark.parametrize("data", [b"[" * 200_000, b'{"a":' * 100_000, b" " * (sets.MANIFEST_LIMIT + 1)])
def test_a_manifest_nested_deep_or_huge_is_refused(tmp_path, data):
    (tmp_path / storage.MANIFEST).write_bytes(data)
    with refused(InvalidFile, path=tmp_path / storage.MANIFEST, problem="must be a manifest of topoflow"):
        storage.open_set(tmp_path, storage.ACTIVATIONS)


def test_a_symbolic_link_in_the_place_of_the_temporary_file_is_not_written_through(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "file.part").symlink_to(tmp_path / "precious")
    storage.write_file(tmp_path / "file", b"new")
    assert (tmp_path / "precious").read_bytes() == b"precious"
    assert (tmp_path / "file").read_bytes() == b"new"


def test_a_gzip_bomb_of_one_line_is_refused_in_bounded_memory(tmp_path):
    path = tmp_path / "rows.jsonl.gz"
    with gzip.open(path, "wb", compresslevel=6) as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with refused(InvalidFile, path=path):
        list(read_jsonl(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 160 << 10  # KiB


def test_a_small_yaml_file_that_would_fill_memory_is_refused(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    path = tmp_path / "params.yaml"
    for text, problem in (
        ("\n".join(lines), "at most 100000 values"),
        ("seeds: &a [*a]", "at most 100000 values"),
        ("[" * 20_000, "must be YAML"),
    ):
        path.write_text(text)
        with refused(InvalidFile, path=path, problem=problem):
            read_mapping(path)


FORBIDDEN = {
    "import pickle": "unpickles",
    "allow_pickle=True": "unpickles",
    "torch.load(": "unpickles unless told otherwise: read safetensors",
    "yaml.load(": "builds any object: yaml.safe_load, or a SafeLoader's own get_single_data",
    "eval(": "runs text",
    "exec(": "runs text",
    "shell=True": "runs text",
    "os.system(": "runs text",
    "trust_remote_code=True": "runs a stranger's code",
    "trust_remote_code: bool = True": "runs a stranger's code",
    "weights_only=False": "unpickles",
}


def test_the_source_holds_nothing_that_runs_what_it_reads():
    found = [
        f"{path.relative_to(REPOSITORY)}: {line.strip()} ({why})"
        for path in sorted((REPOSITORY / "topoflow").rglob("*.py"))
        for line in path.read_text(encoding="utf-8").splitlines()
        for word, why in FORBIDDEN.items()
        if word in line
        and "yaml.load(text, Loader=loader)" not in line  # of the wheel's own text, by a loader that is safe
        and not line.strip().startswith("#")
        and f".{word}" not in line
        and f"_{word}" not in line
    ]
    assert found == []
