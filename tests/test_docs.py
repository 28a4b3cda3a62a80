"""Every block of code in README.md and docs/ is run or parsed, and what they say of files and messages is so.

Python runs, page by page, with a small real Trainer at hand. Of a shell block each command is parsed by the program
that it calls, with all its options, and not run; a YAML block is read as part of params.yaml. A block that can do
neither says why in a comment before it: `<!-- not run: REASON -->`.
"""

from __future__ import annotations

import ast
import csv
import doctest
import importlib
import importlib.util
import itertools
import json
import re
import shlex
import textwrap
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support import REPOSITORY, llama

from topoflow.dynamics.claims.reading import in_order, rungs

PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"^(?P<mark> *<!--.*?-->\n)?(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=indent)```$",
    flags=re.MULTILINE | re.DOTALL,
)
# Nothing of these is topoflow's, and they are not installed for tests.
OTHERS = {"accelerate", "cp", "cd", "git", "source", "export", "sbatch"}


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    body: str
    not_run: str


def blocks(language: str | None = None) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in BLOCK.finditer(text):
            reason = re.search(r"<!-- not run: (.+) -->", match["mark"] or "")
            found.append(
                Block(
                    page.relative_to(REPOSITORY).as_posix(),
                    text[: match.start("body")].count("\n") + 1,
                    match["language"],
                    textwrap.dedent(match["body"]),
                    reason[1] if reason else "",
                )
            )
    return [block for block in found if language in (None, block.language)]


def runnable(language: str) -> list[Any]:
    return [pytest.param(b, id=f"{b.page}:{b.line}") for b in blocks(language) if not b.not_run]


def test_blocks_are_of_known_languages_and_few_are_not_run():
    assert {block.language for block in blocks()} == {"sh", "python", "yaml", "text", "bibtex"}
    assert sum(bool(block.not_run) for block in blocks()) <= 6


# --- Python -------------------------------------------------------------------------------------


@pytest.fixture
def session(tmp_path, monkeypatch, fresh_store, model, tokenizer):
    """What the pages take as given: a Trainer, its model and tokenizer, prompts, and a store to log to."""
    import torch
    from mlflow.models.evaluation.evaluator_registry import _model_evaluation_registry
    from transformers import DataCollatorForLanguageModeling, Trainer, TrainingArguments

    from topoflow.tracking.evaluator import TopologyEvaluator

    monkeypatch.chdir(tmp_path)
    _model_evaluation_registry.register("topoflow", TopologyEvaluator)
    torch.manual_seed(0)
    trainer = Trainer(
        llama(len(tokenizer)),
        TrainingArguments("out", max_steps=4, report_to="none", save_strategy="no", use_cpu=True),
        train_dataset=[tokenizer(f"A row about the number {i}.") for i in range(16)],
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm=False),
        processing_class=tokenizer,
    )
    prompts = [f"Prompt number {i * i}: {'why ' * (i % 4)}" for i in range(24)]
    return {"trainer": trainer, "model": model, "tokenizer": tokenizer, "prompts": prompts}


@pytest.mark.parametrize("page", sorted({b.page for b in blocks("python") if not b.not_run}))
def test_the_python_of_a_page_runs_from_top_to_bottom(page, session):
    for block in blocks("python"):
        if block.page == page and not block.not_run:
            code = "\n" * (block.line - 1) + block.body  # so that an error names the line of the page
            exec(compile(code, str(REPOSITORY / page), "exec"), session)


def test_the_callback_that_saves_twins_saves_them_and_nothing_else(session):
    (block,) = [block for block in blocks("python") if "class SaveTwins" in block.body]
    exec(block.body, session)
    saved = {path.name for path in Path("out").glob("checkpoint-*")}
    assert saved == {"checkpoint-1", "checkpoint-3", "checkpoint-4"}  # step 0 is the model itself


# --- the shell ----------------------------------------------------------------------------------


def commands(body: str) -> list[list[str]]:
    """The commands of a shell block as words, without variables set before them and without launchers."""
    found = []
    for line in body.replace("\\\n", " ").splitlines():
        if re.match(r"\w+=\(", line):  # an array of bash
            continue
        words = shlex.split(line, comments=True)
        while words and (re.match(r"[A-Z_]+=", words[0]) or words[0] == "srun"):
            words = words[1:]
        if words:
            found.append(words)
    return found


@pytest.mark.parametrize("block", runnable("sh"))
def test_every_command_is_understood_by_the_program_that_it_calls(block):
    for words in commands(block.body):
        check_command(words)


def check_command(words: list[str]) -> None:
    program, *arguments = words
    if program == "topoflow":
        from topoflow.cli import main

        check_click(main, arguments)
        assert "--objective" not in arguments or arguments[0] in ("plan", "run", "sensitivity")
    elif program == "mlflow":
        from mlflow.cli import cli

        check_click(cli, arguments)
        if arguments[0] == "run":
            check_project_parameters(arguments)
    elif program == "dask":
        from importlib import import_module

        check_click(import_module(f"distributed.cli.dask_{arguments[0]}").main, arguments[1:])
    elif program == "dvc":
        from dvc.cli import parse_args

        parse_args(arguments)
        check_stages(arguments)
    elif program == "make":
        targets = re.findall(r"^(\w[\w-]*):", (REPOSITORY / "Makefile").read_text(), flags=re.MULTILINE)
        assert set(arguments) <= set(targets)
    elif program == "pip":
        assert arguments[0] == "install"
        check_requirement(arguments[-1])
    elif program == "python":
        script = (REPOSITORY / arguments[0]).read_text(encoding="utf-8")
        assert all(f'"{word}"' in script for word in arguments if word.startswith("--"))
    else:
        assert program in OTHERS, f"nothing here can parse {shlex.join(words)}"


def check_click(command: Any, arguments: list[str]) -> None:
    """Parse a command of click down to its last subcommand, without calling it."""
    import click

    context = command.make_context(command.name, list(arguments))
    while isinstance(command, click.Group):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)


def check_project_parameters(arguments: list[str]) -> None:
    project = yaml.safe_load((REPOSITORY / "MLproject").read_text(encoding="utf-8"))
    pairs = list(itertools.pairwise(arguments))
    given = [value.split("=")[0] for flag, value in pairs if flag == "-P"]
    (entry_point,) = [value for flag, value in pairs if flag == "-e"] or ["main"]
    assert set(given) <= set(project["entry_points"][entry_point]["parameters"])


def check_stages(arguments: list[str]) -> None:
    stages = yaml.safe_load((REPOSITORY / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    targets = [word for word in arguments[1:] if not word.startswith("-")] if "repro" in arguments else []
    assert {target.split("@")[0] for target in targets if target != "repro"} <= set(stages)


def check_requirement(text: str) -> None:
    from packaging.requirements import Requirement
    from test_packaging import PROJECT

    requirement = Requirement(text if text != "." else "topoflow")
    assert requirement.name == PROJECT["name"]
    assert requirement.extras <= set(PROJECT["optional-dependencies"])


# --- params.yaml --------------------------------------------------------------------------------


@pytest.mark.parametrize("block", runnable("yaml"))
def test_every_yaml_block_is_a_part_of_a_valid_params_yaml(block):
    from topoflow.config import parse_params

    params = yaml.safe_load((REPOSITORY / "params.yaml").read_text(encoding="utf-8"))
    # models and layers of a page need not go with the embedded model of the study
    params["models"] = ["pythia"]
    parse_params(merged(params, yaml.safe_load(block.body)))


def merged(base: Any, over: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(over, dict)) or "source" in over:
        return over
    return {**base, **{key: merged(base.get(key), value) for key, value in over.items()}}


def module_of_docs(name: str) -> Any:
    """A module that mkdocs is given, which is in no package."""
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / f"docs/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def hooks() -> Any:
    return module_of_docs("hooks")


def test_docstrings_become_markdown_as_their_examples_say():
    found = doctest.testmod(module_of_docs("docstrings"))
    assert (found.attempted, found.failed) == (2, 0)


def test_the_reference_of_params_yaml_holds_every_key_of_every_section(hooks):
    from topoflow import config
    from topoflow.config.schedule import Schedule

    page = hooks.params_page()
    sections = [
        *(
            getattr(config, name)
            for name in ("Params", "Prompts", "Prepare", "Finetune", "Lora", "Recording", "Opening")
        ),
        *(getattr(config, name) for name in ("Topology", "Trajectory", "Claims", "Sensitivity")),
        *(getattr(config, name) for name in ("Joint", "Track", "Compute")),
        *config.MODEL_SOURCES.values(),
        *config.OBJECTIVE_SOURCES.values(),
        Schedule,
    ]
    known = {name for name, kind in vars(config).items() if hasattr(kind, "__dataclass_fields__")}
    assert known == {kind.__name__ for kind in sections}  # a new section must be in the list above
    for section in sections:
        for field in fields(section):
            assert f"| `{field.name}` |" in page, f"{section.__name__}.{field.name}"
    assert "| `max_steps` | whole number | `48` |" in page
    assert "tokens kept of a prompt, its end" in page  # a comment of params.yaml
    assert "the GGUF file inside the wheel" in page  # a comment of the class
    assert "Record each multiple of" in page  # a docstring


def test_the_reference_of_the_command_line_holds_every_command(hooks):
    from topoflow.cli import main

    page = hooks.cli_page()
    assert all(f"## topoflow {name}\n" in page for name in main.commands)
    assert "--set KEY=VALUE" in page


def test_a_page_that_loads_from_the_network_is_refused(hooks, tmp_path):
    from types import SimpleNamespace

    from mkdocs.exceptions import PluginError

    page = tmp_path / "index.html"
    page.write_text(
        '<a href="https://example.org">a link</a><link rel="canonical" href="https://example.org">'
    )
    hooks.on_post_build(SimpleNamespace(site_dir=str(tmp_path)))
    for loading in (
        '<script src="https://example.org/a.js"></script>',
        '<link rel="stylesheet" href="//example.org/a.css">',
        "<style>@import 'https://example.org/a.css'</style>",
    ):
        page.write_text(loading)
        with pytest.raises(PluginError, match=r"example\.org/a"):
            hooks.on_post_build(SimpleNamespace(site_dir=str(tmp_path)))


# --- what the pages say of the repository -------------------------------------------------------


def verdict_table(path: Path) -> list[str]:
    """The claims of a file of results as a table of the pages: a row a claim, a column a homology, and in each cell the
    verdict and the rungs that were climbed."""
    if path.suffix == ".csv":
        claims = list(csv.DictReader(path.open(encoding="utf-8")))
    else:
        claims = in_order(json.loads(path.read_text(encoding="utf-8"))["claims"].values())
    cells: dict[str, dict[str, str]] = {}
    for claim in claims:
        numbers = [
            f"{name} {float(claim[name]):.3g}" for name in ("value", "p") if claim[name] not in (None, "")
        ]
        steps = claim["steps"]
        if isinstance(steps, str):  # as a row of a CSV file has them
            steps = [step.rsplit(": ", 1) for step in steps.split("; ") if step]
        said = f"**{claim['verdict']}**" + (f" ({', '.join(numbers)})" if numbers else "")
        said = "<br>".join(filter(None, (said, " → ".join(rungs(steps)))))
        cells.setdefault(claim["statement"], {})[claim["homology"]] = said
    rows = [f"| {statement} | {of['H1']} | {of['H0']} |" for statement, of in cells.items()]
    return ["| claim | loops (H1) | components (H0) |", "|---|---|---|", *rows]


def test_tables_of_verdicts_are_those_of_the_committed_results():
    n_tables = 0
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"<!-- verdicts of (\S+) -->\n\n((?: *\|.*\n)+)", text):
            table = [line.strip() for line in match[2].splitlines()]
            assert table == verdict_table(REPOSITORY / match[1]), f"{page}: {match[1]}"
            n_tables += 1
    assert n_tables == 5


def test_numbers_in_the_text_are_those_of_the_committed_results():
    run = json.loads((REPOSITORY / "results/tiny/helpful/seed_0/trajectory.json").read_text(encoding="utf-8"))
    peaks = [layer["h1_peak_over_sampling_floor"] for layer in run["layers"].values()]
    pooled = run["pooled"]
    claims = json.loads((REPOSITORY / "comparison/comparison.json").read_text(encoding="utf-8"))["claims"]
    loops, components, calm = (claims[name] for name in ("early_h1", "early_h0", "calm_h1"))
    apart = list(csv.DictReader((REPOSITORY / "comparison/separation.csv").open(encoding="utf-8")))
    apart = [row for row in apart if row["compared"] == "objectives of tiny"]
    ratio = sum(float(row["between"]) for row in apart) / sum(float(row["within"]) for row in apart)
    controls = list((REPOSITORY / "results").glob("tiny/*_shuffled/seed_*/trajectory.json"))
    early = [
        json.loads(path.read_text(encoding="utf-8"))["claims"]["early_h0"]["verdict"] for path in controls
    ]
    concentration = f"{pooled['concentration']:.3f}"
    added = {
        row["target"]: [f"{float(row[name]):.3f}" for name in ("gain", "low", "high")]
        for row in csv.DictReader((REPOSITORY / "comparison/added.csv").open(encoding="utf-8"))
    }
    for page, said in {
        "docs/concepts/noise-floor.md": [
            f"{min(peaks):.2f} to {max(peaks):.2f} times the sampling floor",
            f"between objectives is {ratio:.2f} times that between seeds",
        ],
        "docs/concepts/verdicts.md": [
            f"{early.count('supported')} of the {len(early)} in the committed study"
        ],
        "README.md": [
            f"a concentration of {concentration}, and {pooled['concentration_expected']:.3f} is expected",
            f"{loops['value']:.2f} for loops ({loops['low']:.2f} to {loops['high']:.2f})",
            f"{components['value']:.2f} for components",
            "(gain in R2 {}, {} to {})".format(*added["behaviour"]),
            "({}, {} to {}; [what that means]".format(*added["held-out loss"]),
        ],
        "docs/tutorial.md": [
            f"concentration of {concentration}, where {pooled['concentration_expected']:.3f} is expected",
            f"loops slow down to {calm['value']:.2f} ({calm['low']:.2f} to {calm['high']:.2f})",
        ],
    }.items():
        text = " ".join((REPOSITORY / page).read_text(encoding="utf-8").split())
        assert [one for one in said if one not in text] == [], page


def test_tables_and_numbers_of_the_study_of_smollm2_are_those_of_its_committed_results():
    study = REPOSITORY / "studies" / "smollm2"
    labels = [
        f"{objective}{kind}" for objective in ("helpful", "harmless", "mixed") for kind in ("", "_shuffled")
    ]
    labels.insert(4, "harmless_constant")
    rows: list[str] = []
    early = 0
    for label in labels:
        name = label.replace("_shuffled", ", shuffled").replace("_constant", ", constant rate")
        runs = sorted((study / "results" / "smollm2" / label).iterdir())
        found = [json.loads((run / "trajectory.json").read_text(encoding="utf-8")) for run in runs]
        assert not any("texts" in one for one in found)  # some answers repeat a prompt
        pooled = [one["pooled"] for one in found]
        shares = [f"{np.mean([one[f'early_share_h{h}'] for one in pooled]):.2f}" for h in (1, 0)]
        concentrations, ps = ([one[key] for one in pooled] for key in ("concentration", "concentration_p"))
        peaks = [", ".join(str(one[key]) for one in pooled) for key in ("peak_step", "behaviour_peak_step")]
        size = f"{np.mean(concentrations):.3f} ({min(concentrations):.3f} to {max(concentrations):.3f})"
        rows.append(f"| {' | '.join([name, size, f'{max(ps):.1g}', *shares, *peaks])} |")
        early += sum(p <= 0.05 for p in ps)
        losses = [list(csv.DictReader((run / "quantities.csv").open(encoding="utf-8"))) for run in runs]
        for step, said in ((0, "nothing (step 0)"), (-1, name)):
            ends = [
                f"{np.mean([float(one[step][f'held_out_loss/{of}']) for one in losses]):.2f}"
                for of in ("harmless", "helpful")
            ]
            rows.append(f"| {said} | {' | '.join(ends)} |")
    names = {"early": "early", "calm": "a burst, then calm", "leads": "before behaviour"}
    by_dtype = [
        list(csv.DictReader((study / "dtype" / f"{dtype}.csv").open(encoding="utf-8")))
        for dtype in ("bfloat16", "float32")
    ]
    for pair in zip(*by_dtype, strict=True):
        assert len({one["rung"] for one in pair}) == 1
        claim = f"{names[pair[0]['claim']]}, {'loops' if pair[0]['homology'] == 'H1' else 'components'}"
        said = [f"{one['verdict']} ({float(one['value']):.3f})" for one in pair]
        rows.append(f"| {' | '.join([claim, *said])} |")
    shares = list(csv.DictReader((study / "dtype" / "runs.csv").open(encoding="utf-8")))
    for dtype in ("bfloat16", "float32"):
        first, *others = [f"{float(one['concentration']):.3f}" for one in shares if one["dtype"] == dtype]
        rows.append(f"{first}, {' and '.join(others)} in {dtype}")
    evasions: dict[str, list[str]] = {}
    for row in csv.DictReader((study / "answers.csv").open(encoding="utf-8")):
        assert row["answers"] == "32"
        evasions.setdefault(row["objective"], []).append(row["evasions"])
    for label, counts in evasions.items():
        name = label.replace("_shuffled", ", shuffled").replace("_constant", ", constant rate")
        rows.append(f"| {name or 'nothing (step 0)'} | {', '.join(counts)} |")
    for row in csv.DictReader((study / "comparison" / "added.csv").open(encoding="utf-8")):
        names = ("simple", "topology", "both", "gain", "low", "high")
        said = [f"{float(row[name]):.3f}".replace("-", "−") for name in names]
        rows.append("| {} | {} | {} | {} ({} to {}) |".format(*said))
    page = (REPOSITORY / "docs" / "studies" / "smollm2.md").read_text(encoding="utf-8")
    assert [row for row in rows if row not in page] == []
    assert f"{early} of the 21 runs" in page
    claims = json.loads((study / "comparison/comparison.json").read_text(encoding="utf-8"))["claims"]
    text = " ".join(page.split())
    for name, words in {
        "early_h1": "{value:.2f} for loops (95 % interval −0.01 to {high:.2f})",
        "early_h0": "For components it is {value:.2f}",
        "calm_h1": "{value:.2f} (loops, {low:.2f} to {high:.2f})",
        "calm_h0": "{value:.2f} (components, {low:.2f} to {high:.2f})",
    }.items():
        assert words.format_map(claims[name]) in text, name


def messages_of_the_code() -> list[str]:
    """The strings of topoflow, with an ellipsis for what is filled in."""
    from topoflow.checked import WORDS
    from topoflow.study.scaffold import REQUIREMENTS

    def said(part: ast.expr) -> str:
        if isinstance(part, ast.Constant):
            return str(part.value)
        return REQUIREMENTS if ast.unparse(part).strip("{}") == "REQUIREMENTS" else "…"

    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in (REPOSITORY / "topoflow").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    strings = ["".join(map(said, node.values)) for node in nodes if isinstance(node, ast.JoinedStr)]
    strings += [
        node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    # the types of errors.py put the sentence together
    patterns = {
        "InvalidArgument": "{} must be {}, got …",
        "InvalidFile": "{} {}",
        "NoAnswer": "{} does not answer: {}",
    }
    for node in nodes:
        if (
            isinstance(node, ast.Call)
            and (pattern := patterns.get(ast.unparse(node.func)))
            and len(node.args) > 1
        ):
            given = [
                "".join(map(said, arg.values)) if isinstance(arg, ast.JoinedStr) else said(arg)
                for arg in node.args
            ]
            strings.append("; ".join([pattern.format(*given), *given[3 if "got" in pattern else 2 :]]))
    return strings + [f"… must be {kind}, got …" for kind in WORDS.values()]


def test_messages_in_troubleshooting_are_those_of_the_code():
    """What stands between ellipses must be in one message of the code, in order."""
    text = (REPOSITORY / "docs/troubleshooting.md").read_text(encoding="utf-8")
    messages = re.findall(r"^\| `([^`]+)` \| ", text, flags=re.MULTILINE)
    assert len(messages) >= 30
    code = messages_of_the_code()
    for message in messages:
        parts = [part.strip(" '") for part in message.split("…")]
        pattern = re.compile(".*".join(re.escape(part) for part in parts if len(part) > 3))
        assert any(map(pattern.search, code)), message


def test_places_named_in_the_protocol_exist():
    text = (REPOSITORY / "docs/protocol.md").read_text(encoding="utf-8")
    places = set(re.findall(r"`((?:topology|dynamics|recording|training)\.[\w.]+)`", text))
    assert len(places) > 30
    for place in places:
        module, _, name = place.rpartition(".")
        if (REPOSITORY / "topoflow" / Path(*place.split("."))).with_suffix(".py").exists():
            continue
        if place.split(".")[0] in ("topology", "recording") and "." not in place.partition(".")[2]:
            from topoflow.config import Recording

            assert name in Recording.__dataclass_fields__  # a key of params.yaml
            continue
        assert hasattr(importlib.import_module(f"topoflow.{module}"), name), place


def test_the_table_of_trainers_names_tests_that_there_are():
    text = (REPOSITORY / "docs/how-to/trainers.md").read_text(encoding="utf-8")
    known = dict(re.findall(r"^\| (\d+) \| `(\S+)` \|$", text, flags=re.MULTILINE))
    for name in known.values():
        file, _, test = name.partition("::")
        assert f"def {test}(" in (REPOSITORY / "tests/recording" / file).read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+ \|(?: [^|]+ \|){5} ([\d, ]*)\|$", text, flags=re.MULTILINE)
    used = {number for row in rows for number in row.replace(",", " ").split()}
    assert used == set(known)


def test_the_readme_links_to_what_there_is():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (REPOSITORY / target).is_file(), target


def test_a_warning_of_the_documentation_ends_its_build():
    """With --quiet mkdocs does not see its own warnings, and --strict then lets a broken link pass."""
    (command,) = re.findall(r"mkdocs build.*", (REPOSITORY / "Makefile").read_text(encoding="utf-8"))
    assert command.split()[2:] == ["--strict"]
