"""Each file that a command reads, damaged at random: one line says so, never a traceback, and nothing altered is taken.

Half of the damage is vouched for afterwards, as a stranger's study would: every hash that names the file is made anew.
`TOPOFLOW_FAULT_TRIES=100` tries some thousands.
"""

from __future__ import annotations

import csv
import io
import json
import os
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from topoflow import storage

RUN = ("--model", "tiny", "--objective", "helpful")
SET = "tiny/helpful/seed_0"
RESULTS = f"results/{SET}"
TRIES = max(1.0, float(os.environ.get("TOPOFLOW_FAULT_TRIES", "1")))
LONGEST = 600  # characters of a message
COMMANDS = {
    "track": ("track", *RUN),
    "compare": ("compare",),
    "report": ("report",),
    "diagrams": ("diagrams", *RUN),
    "trajectory": ("trajectory", *RUN),
}
# Files by the commands that read them.
READ = {
    **dict.fromkeys((f"activations/{SET}/manifest.json", f"diagrams/{SET}/manifest.json"), tuple(COMMANDS)),
    f"{RESULTS}/trajectory.json": ("track", "compare", "report"),
    **{
        f"{RESULTS}/{name}.csv": ("track", "compare", "report")
        for name in ("velocity", "summaries", "distances", "controls", "behaviour", "loss")
    },
    **{
        f"comparison/{name}": ("report",)
        for name in ("comparison.json", "map.csv", "classification.csv", "separation.csv", "map.png")
    },
    "models/tiny.json": ("diagrams",),
    "data/prompts.jsonl": ("diagrams",),
}
DEEP = json.loads("[" * 400 + "]" * 400)
ODD = (
    None,
    True,
    "",
    "x",
    "\x1b[31m",
    -1,
    0,
    1.5,
    float("nan"),
    float("inf"),
    10**30,
    10**400,
    [],
    {},
    [[1]],
    DEEP,
    "9" * 9999,
)
CELLS = ("", "inf", "-inf", "nan", "x", "1e400", "-1", "1.5", "9" * 400, "\x00", '"')


@pytest.fixture(scope="module")
def pair(whole: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The whole study with a second run, a comparison and a report."""
    folder = tmp_path_factory.mktemp("pair") / "pair"
    shutil.copytree(whole.folder, folder)
    forks = whole.at(folder)
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    (folder / "params.yaml").write_text(
        yaml.safe_dump({**params, "objectives": ["helpful"], "seeds": [0, 1]}), encoding="utf-8"
    )
    for stage in ("finetune", "diagrams", "trajectory", "track"):
        assert forks(stage, *RUN, "--seed", "1") == 0, forks.output
    for command in ("compare", "report"):
        assert forks(command) == 0, forks.output
    return forks


def damaged(data: bytes, suffix: str, draw: random.Random) -> bytes:
    kind = draw.choice(("shape", "shape", "shape", "cut", "binary", "deep", "empty"))
    if kind == "shape" and suffix in (".json", ".jsonl"):
        return b"\n".join(
            json.dumps(_odd(json.loads(line), draw)).encode() for line in _documents(data, suffix)
        )
    if kind == "shape" and suffix == ".csv":
        return _odd_table(data.decode(), draw).encode()
    return {
        "cut": data[: draw.randrange(len(data))],
        "deep": b'{"a":' * 3000 if draw.random() < 0.5 else b"[" * 100_000,
        "empty": b"",
    }.get(kind, draw.randbytes(draw.randrange(1, 300)))


def _documents(data: bytes, suffix: str) -> list[bytes]:
    return [data] if suffix == ".json" else data.splitlines()


def _odd(value: Any, draw: random.Random, depth: int = 0) -> Any:
    """A value with one part of it changed or left out."""
    if not value or not isinstance(value, dict | list) or draw.random() < 0.15 * depth:
        return draw.choice(ODD)
    if isinstance(value, list):
        at = draw.randrange(len(value))
        return [
            *value[:at],
            *([] if draw.random() < 0.2 else [_odd(value[at], draw, depth + 1)]),
            *value[at + 1 :],
        ]
    key = draw.choice(sorted(value))
    rest = {name: item for name, item in value.items() if name != key}
    return rest if draw.random() < 0.25 else {**rest, key: _odd(value[key], draw, depth + 1)}


def _odd_table(text: str, draw: random.Random) -> str:
    rows = list(csv.reader(io.StringIO(text)))
    row, column = draw.randrange(len(rows)), draw.randrange(len(rows[0]))
    change = draw.choice(("cell", "cell", "column", "row", "twice", "short"))
    if change == "cell":
        rows[row][column] = draw.choice(CELLS)
    elif change == "column":
        rows = [r[:column] + r[column + 1 :] for r in rows]
    elif change == "row":
        del rows[row]
    elif change == "twice":
        rows.insert(row, rows[row])
    else:
        rows[row] = rows[row][:-1]
    return "\n".join(",".join(r) for r in rows) + "\n"


def vouch(folder: Path) -> None:
    """Make anew every hash of the study that can be, as one who forges it would."""

    def change(path: Path, **facts: Any) -> None:
        try:
            found = json.loads(path.read_bytes())
            path.write_text(json.dumps({**found, **facts}))
        except (ValueError, TypeError, RecursionError):
            pass  # what was damaged is this file

    def hashes(home: Path, held: Path) -> dict[str, str]:
        try:
            names = list(json.loads(held.read_bytes())["files"])
            return {name: storage.sha256_of_file(home / name) for name in names}
        except (ValueError, TypeError, KeyError, RecursionError, OSError):
            return {}

    sets = {kind: folder / kind / SET / storage.MANIFEST for kind in ("activations", "diagrams")}
    change(sets["diagrams"], activations=storage.sha256_of_file(sets["activations"]))
    findings = folder / RESULTS / "trajectory.json"
    change(
        findings, diagrams=storage.sha256_of_file(sets["diagrams"]), files=hashes(findings.parent, findings)
    )
    compared = folder / "comparison/comparison.json"
    change(compared, files=hashes(compared.parent, compared))


@pytest.mark.slow
def test_whatever_a_command_reads_is_damaged_one_line_says_so(pair: Any, tmp_path: Path) -> None:
    counted: Counter[str] = Counter()
    wrong: list[str] = []
    for n in range(int(TRIES * 12)):
        draw = random.Random(n)
        name = [*READ][n % len(READ)]
        command = draw.choice(READ[name])
        folder = tmp_path / "study"
        shutil.copytree(pair.folder, folder)
        path = folder / name
        whole = path.read_bytes()
        harmed = damaged(whole, path.suffix, draw)
        path.unlink()
        path.write_bytes(harmed)
        forged = draw.random() < 0.5
        if forged:
            vouch(folder)
        forks = pair.at(folder)
        status = forks(*COMMANDS[command])
        said = f"try {n}: {command} with {name} ({harmed[:80]!r}): exit {status}\n{forks.output}"
        lines = [line for line in forks.output.splitlines() if line.startswith(("Error: ", "Missing: "))]
        # for trajectory.json and comparison.json themselves no file vouches, but dvc.lock does
        vouched = path.suffix != ".json" or path.name == storage.MANIFEST
        altered = harmed != whole and vouched and not forged and command in ("track", "compare", "report")
        fine = (
            status in (0, 1, 2)
            and "Traceback" not in forks.output
            and all(len(line) < LONGEST and line.isprintable() for line in lines)
            and (len(lines) == 1 if status else not altered or (command == "report" and lines))
        )
        wrong += [] if fine else [said]
        counted[f"{command}: {'refused' if status else 'named' if lines else 'done'}"] += 1
        shutil.rmtree(folder)
    print(dict(counted))
    assert not wrong, "\n\n".join(wrong)
