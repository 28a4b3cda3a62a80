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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import click
from cosmic_ray.ast import ast_nodes, get_ast_from_path
from cosmic_ray.mutating import use_mutation
from cosmic_ray.plugins import get_operator, operator_names

HERE = Path(__file__).parent
PACKAGES = ("topology", "dynamics")
SEED = 20260619
PATIENCE = 5  # times what the tests take without a mutation; one that hangs longer is found
# `X | None` in type hints means nothing when the code runs, and no number of the code is joined by |
LEFT_OUT = "BitOr"
Mutation = tuple[Path, str, int]  # file, operator, occurrence


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


def passes(python: str, root: Path, tests: list[Path], patience: float | None = None) -> bool:
    """Whether some tests pass, in time."""
    command = [python, "-m", "pytest", "-x", "-q", "-n0", "-p", "no:cacheprovider", *map(str, tests)]
    settings = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    try:
        result = subprocess.run(command, cwd=root, env=settings, capture_output=True, timeout=patience)  # noqa: S603
    except subprocess.TimeoutExpired:
        return False
    return result.returncode == 0


def judged(python: str, roots: Queue[Path], mutation: Mutation, patience: float) -> tuple[str, bool] | None:
    """What a mutation changes, and whether it survives; None where it changes nothing."""
    relative, name, occurrence = mutation
    root = roots.get()
    try:
        file = root / relative
        with use_mutation(file, get_operator(name)(), occurrence) as (before, after):
            if after is None or after == before:
                return None
            folder = root / "tests" / relative.parent.name
            own = [path for path in (file, folder / f"test_{file.stem}.py") if path.exists()]
            lives = passes(python, root, own, patience) and passes(python, root, [folder], patience)
            return changed(before, after), lives
    finally:
        roots.put(root)


def changed(before: str, after: str) -> str:
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm="", n=0)
    kept = [line[0] + " " + line[1:].strip() for line in list(lines)[2:] if line[0] in "+-"]
    return "\n".join(kept)


@click.command()
@click.option("--python", default=".venv/bin/python", show_default=True, help="Runs the tests.")
@click.option("--number", default=80, show_default=True, help="Mutations of each package.")
@click.option("--at-once", default=2, show_default=True, help="Mutations tried at a time.")
@click.option(
    "--only", type=click.Choice(PACKAGES), help="Try those of one package; the page is then of it alone."
)
def main(python: str, number: int, at_once: int, only: str | None) -> None:
    """Draw mutations, run the tests on each, and write what survived."""
    python = str(Path(python).absolute())  # not resolved: an environment's python is a link
    began, rng = time.monotonic(), random.Random(SEED)  # noqa: S311
    drawn, found, survivors, sizes = Counter[str](), Counter[str](), [], {}
    ignored = shutil.ignore_patterns(
        ".git", ".venv", "mlruns", "activations", "diagrams", "__pycache__", ".dvc"
    )
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(at_once) as pool:
        roots: Queue[Path] = Queue()
        for place in range(at_once):
            roots.put(shutil.copytree(HERE.parent, Path(folder) / str(place) / "topoflow", ignore=ignored))
        for package in PACKAGES:
            of_package = HERE.parent / "topoflow" / package
            mutations = [
                (file.relative_to(HERE.parent), *place)
                for file in sorted(of_package.rglob("*.py"))
                for place in places(file)
            ]
            sizes[package] = len(mutations)
            chosen = rng.sample(mutations, min(number, len(mutations)))
            if only not in (None, package):
                continue
            before = time.monotonic()
            if not passes(python, Path(folder) / "0/topoflow", [Path("tests") / package]):
                raise click.ClickException(f"the tests of {package} fail without a mutation")
            patience = PATIENCE * (time.monotonic() - before)
            tried = pool.map(lambda one, most=patience: judged(python, roots, one, most), chosen)
            for (file, name, _), result in zip(chosen, tried, strict=True):
                if result is None:
                    continue
                difference, lives = result
                drawn[package] += 1
                found[package] += not lives
                if lives:
                    survivors.append(f"`{file.as_posix()}`\n\n```diff\n{difference}\n```\n")
                print(f"{drawn[package]} {file} {name}: {'survives' if lives else 'found'}", flush=True)
                write(drawn, found, sizes, survivors, time.monotonic() - began)  # it may be ended at any time


def write(
    drawn: Counter[str], found: Counter[str], sizes: dict[str, int], survivors: list[str], seconds: float
) -> None:
    rows = []
    for package in drawn:
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
