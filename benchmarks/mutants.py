"""How many planted faults the tests find: mutations of topology/ and dynamics/, drawn at random.

    pip install cosmic-ray        # in an environment of its own, as it is not in the lock file
    python benchmarks/mutants.py --python .venv/bin/python

Each mutation changes one place of one file in a copy of the repository: a number, an operator, a condition. Then the
doctests of that file and the tests of its folder run, until one fails. Writes benchmarks/mutants.md.
"""

from __future__ import annotations

import difflib
import math
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import click
from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import use_mutation
from cosmic_ray.plugins import get_operator, operator_names

HERE = Path(__file__).parent
PACKAGES = ("topology", "dynamics")
SEED = 20260619
PATIENCE = 240  # seconds; a mutation that hangs is found
# `X | None` in type hints means nothing when the code runs, and no number of the code is joined by |
LEFT_OUT = "BitOr"


def places(path: Path) -> Iterator[tuple[str, int]]:
    """All mutations of a file: operator and occurrence."""
    tree = get_ast_from_path(path)
    for name in operator_names():
        if LEFT_OUT in name:
            continue
        operator = get_operator(name)
        if operator.arguments():
            continue
        found = sum(1 for node in ast_nodes(tree) for _ in operator().mutation_positions(node))
        yield from ((name, occurrence) for occurrence in range(found))


def survives(python: str, root: Path, file: Path, package: str) -> bool:
    own = root / "tests" / package / f"test_{file.stem}.py"
    tests = [str(path) for path in (file, own, own.parent) if path.exists()]
    command = [python, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    settings = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    try:
        result = subprocess.run(command, cwd=root, env=settings, capture_output=True, timeout=PATIENCE)  # noqa: S603
    except subprocess.TimeoutExpired:
        return False
    return result.returncode == 0


def changed(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    kept = [line[0] + " " + line[1:].strip() for line in list(lines)[2:] if line[0] in "+-"]
    return "\n".join(kept)


@click.command()
@click.option("--python", default=".venv/bin/python", show_default=True, help="Runs the tests.")
@click.option("--number", default=80, show_default=True, help="Mutations of each package.")
def main(python: str, number: int) -> None:
    """Draw mutations, run the tests on each, and write what survived."""
    python = str(Path(python).absolute())  # not resolved: an environment's python is a link
    began = time.monotonic()
    rng = random.Random(SEED)  # noqa: S311
    drawn, found, survivors = Counter[str](), Counter[str](), []
    sizes = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "topoflow"
        ignored = shutil.ignore_patterns(
            ".git", ".venv", "mlruns", "activations", "diagrams", "__pycache__", ".dvc"
        )
        shutil.copytree(HERE.parent, root, ignore=ignored)
        for package in PACKAGES:
            files = sorted((root / "topoflow" / package).rglob("*.py"))
            mutations = [(file, *place) for file in files for place in places(file)]
            sizes[package] = len(mutations)
            for file, name, occurrence in rng.sample(mutations, min(number, len(mutations))):
                with use_mutation(file, get_operator(name)(), occurrence) as (before, after):
                    if after is None or after == before:
                        continue
                    drawn[package] += 1
                    lives = survives(python, root, file, package)
                    found[package] += not lives
                    where = file.relative_to(root).as_posix()
                    if lives:
                        survivors.append(f"`{where}`\n\n```diff\n{changed(before, after)}\n```\n")
                print(f"{drawn[package]} {where} {name}: {'survives' if lives else 'found'}", flush=True)
    write(drawn, found, sizes, survivors, time.monotonic() - began)


def write(
    drawn: Counter[str], found: Counter[str], sizes: dict[str, int], survivors: list[str], seconds: float
) -> None:
    rows = []
    for package in PACKAGES:
        n, share = drawn[package], found[package] / drawn[package]
        error = 1.96 * math.sqrt(share * (1 - share) / n)
        rows.append(
            f"| {package} | {sizes[package]:,} | {n} | {found[package]} | {share:.0%} ± {error:.0%} |"
        )
    text = f"""# What the tests find

Written by `benchmarks/mutants.py` in {seconds / 60:.0f} min. A mutation changes one place of the code with an
operator of cosmic-ray: a number by one, an operator for another, a condition for its opposite. It is found when a
test fails. Mutations are drawn at random, with seed {SEED}, and the interval is that of the draw. Those of `|` are
left out, which type hints are full of.

| package | mutations there are | drawn | found | score |
| --- | ---: | ---: | ---: | ---: |
{chr(10).join(rows)}

## What survived

"""
    (HERE / "mutants.md").write_text(text + "\n".join(survivors), encoding="utf-8")


if __name__ == "__main__":
    main()
