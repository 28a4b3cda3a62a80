"""What `topoflow plan` says, against what then happens, stage by stage.

    python benchmarks/plan.py [--times 3] [CASE...]

Writes benchmarks/plan.md. Each case is a study of its own with an empty cache, in which every stage is a process of its
own, as DVC calls it. Plans and stages are made `--times` times, in turns; of each the median is shown. All seconds are
those of CPU, in the plan as well, on one thread and with one worker: on a machine of one's own they are the clock's,
and on one that is shared they tell the truth all the same.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).parent
# name -> model, what differs from params.yaml
CASES: dict[str, tuple[str, list[str]]] = {
    "tiny": ("tiny", []),
    "smollm2": (
        "smollm2",
        ["finetune.max_steps=4", "finetune.per_device_train_batch_size=4", "finetune.max_length=256",
         "recording.schedule={every: 2}", "recording.batch_size=16", "prompts.n_prompts=200", "prepare.n_rows=100"],
    ),
}  # fmt: skip
INTRODUCTION = [
    "Written by `benchmarks/plan.py`: medians, in seconds of CPU on one thread, and in bytes. Plans count neither the",
    "stages `prompts` and `prepare`, nor DVC, which takes a second or two a stage.",
    "",
]
STAGES = ("model", "prompts", "prepare", "finetune", "diagrams", "trajectory", "track")
# the command line, with the CPU's clock for the one on the wall
TOPOFLOW = "import time; time.perf_counter = time.process_time; from topoflow.cli import main; main()"
UNITS = {"s": 1, "min": 60, "h": 3600, "days": 86400, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("cases", nargs="*", default=list(CASES), metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--times", type=int, default=3)
    options = parser.parse_args()
    lines = ["# What a plan says, and what then happens", "", *INTRODUCTION]
    for case in options.cases:
        lines += table(case, *measure(case, options.times))
    (HERE / "plan.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def measure(case: str, times: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """What plans said and what was found, by the lines of a plan: seconds of CPU, and bytes."""
    model, overrides = CASES[case]
    said: dict[str, list[float]] = {}
    found: dict[str, list[float]] = {}
    for _ in range(times):
        with tempfile.TemporaryDirectory() as place:
            study = make_study(Path(place) / "study", overrides)
            if model != "tiny":  # a plan tells nothing of a download, and needs the model's shape
                stage_usage(study, "model", model)
            output, _ = call(study, "plan", "--objective", "helpful", "--model", model)
            for name, number in numbers(output).items():
                said.setdefault(name, []).append(number)
            for stage in STAGES:
                if stage != "model" or model == "tiny":
                    usage = stage_usage(study, stage, model)
                    found.setdefault(f"time of {stage}", []).append(usage.ru_utime + usage.ru_stime)
                    if stage == "finetune":
                        found.setdefault("memory", []).append(usage.ru_maxrss * 1024)
            for name, size in sizes(study).items():
                found.setdefault(name, []).append(size)
    return said, found


def make_study(folder: Path, overrides: list[str]) -> Path:
    from topoflow.config import apply_overrides

    folder.mkdir(parents=True)
    written = yaml.safe_load((HERE.parent / "params.yaml").read_text(encoding="utf-8"))
    params = apply_overrides(written, ["compute.n_jobs=1", *overrides])
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    return folder


def call(study: Path, *arguments: str) -> tuple[str, Any]:
    """What a command says, and what it used."""
    settings = {
        "PYTHONPATH": str(HERE.parent), "TOPOFLOW_CACHE": str(study / "cache"), "TQDM_DISABLE": "1",
        "MLFLOW_TRACKING_URI": f"sqlite:///{study}/mlflow.db", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "-c", TOPOFLOW, *arguments]
    with subprocess.Popen(  # noqa: S603 (no shell)
        command, cwd=study, env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed in {study}")
    return output, usage


def stage_usage(study: Path, stage: str, model: str) -> Any:
    given = {"model": ["--model", model], "prompts": [], "prepare": ["--objective", "helpful"]}
    return call(study, stage, *given.get(stage, ["--model", model, "--objective", "helpful"]))[1]


def numbers(output: str) -> dict[str, float]:
    """The lines of a plan that end in an amount, in seconds and bytes."""
    lines = re.findall(r"^(\w[\w ]*?)  +([\d.]+) (s|min|h|days|B|kB|MB|GB|TB)\b", output, flags=re.MULTILINE)
    return {name: float(number) * UNITS[unit] for name, number, unit in lines}


def sizes(study: Path) -> dict[str, float]:
    def size(folder: str) -> float:
        return float(sum(path.stat().st_size for path in (study / folder).rglob("*") if path.is_file()))

    return {"activations": size("activations"), "diagrams": size("diagrams"), "weights kept": size("tuned")}


def table(case: str, said: Mapping[str, list[float]], found: Mapping[str, list[float]]) -> list[str]:
    model, overrides = CASES[case]
    lines = [
        f"## {model}",
        "",
        f"`params.yaml` with `{' '.join(overrides)}`" if overrides else "`params.yaml` as it is",
    ]
    lines += ["", "| | plan | found | plan / found |", "|---|---|---|---|"]
    for name, seen in found.items():
        if name in said:
            plan, here = statistics.median(said[name]), statistics.median(seen)
            lines.append(f"| {name} | {plan:.3g} | {here:.3g} | {plan / here:.2f} |")
    stages = [name for name in found if name.startswith("time")]
    plan = statistics.median(map(sum, zip(*(said[name] for name in stages if name in said), strict=True)))
    here = statistics.median(map(sum, zip(*(found[name] for name in stages), strict=True)))
    return [*lines, f"| all stages | {plan:.3g} | {here:.3g} | {plan / here:.2f} |", ""]


if __name__ == "__main__":
    main()
