"""What mkdocs builds beside the written pages: references made from the code, and files that stand elsewhere.

`make docs` runs it; nothing generated is committed. After the build, pages that would load anything from the network
are an error.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import io
import re
import tokenize
import types
import typing
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import click
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
# Files of the repository's root that are pages too, as far as they are there.
ROOT_PAGES = {
    "CHANGELOG.md": "Changelog",
    "CONTRIBUTING.md": "Contributing",
    "SECURITY.md": "Security",
}


# --- what mkdocs calls --------------------------------------------------------------------------


def on_config(config: Any) -> Any:
    """Put the root's pages into the last section of the navigation."""
    (project,) = (entry["Project"] for entry in config.nav if "Project" in entry)
    project += [{title: _page(name)} for name, title in ROOT_PAGES.items() if (ROOT / name).is_file()]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the generated pages, the root's pages, and the pictures of the committed comparisons."""
    pages = {"reference/params.md": params_page(), "reference/cli.md": cli_page()}
    for name in ROOT_PAGES:
        if (ROOT / name).is_file():
            pages[_page(name)] = (ROOT / name).read_text(encoding="utf-8").replace("](docs/", "](")
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    for picture in sorted([*ROOT.glob("comparison/*.png"), *ROOT.glob("studies/*/*/*.png")]):
        where = f"pictures/{picture.relative_to(ROOT).as_posix().removeprefix('studies/')}"
        files.append(File.generated(config, where, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Let links to the root's pages, right where the repository is read, lead to the site's."""
    return re.sub(rf"\]\((?:\.\./)+({'|'.join(ROOT_PAGES)})", lambda link: f"]({_page(link[1])}", markdown)


def on_post_build(config: Any) -> None:
    """Refuse a site that loads scripts, styles, fonts or pictures from elsewhere."""
    site = Path(config.site_dir)
    loaded = {
        f"{path.relative_to(site)}: {url}"
        for path in sorted([*site.rglob("*.html"), *site.rglob("*.css")])
        for url in _loaded_by(path)
        if re.match(r"(https?:)?//", url)
    }
    if loaded:
        raise PluginError("these pages load something from the network:\n" + "\n".join(sorted(loaded)))


def _page(name: str) -> str:
    return name.lower()


def _loaded_by(path: Path) -> Iterator[str]:
    """The URLs that a browser loads for a page or a style sheet without being asked."""
    text = path.read_text(encoding="utf-8")
    yield from re.findall(r"url\(\s*['\"]?([^'\")]+)", text)
    yield from re.findall(r"@import\s+['\"]([^'\"]+)", text)
    if path.suffix == ".html":
        parser = _Loads()
        parser.feed(text)
        yield from parser.urls


class _Loads(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if tag in ("script", "img", "iframe", "source", "video", "audio", "embed", "object"):
            self.urls += [given[name] for name in ("src", "data") if name in given]
        elif tag == "link" and given.get("rel") not in ("canonical", "alternate", "next", "prev", "license"):
            self.urls.append(given.get("href", ""))


# What neither a comment nor a docstring says.
REMARKS = {("Prompts", "text"): "not a key of its own: the keys of a source of text stand here in line"}


# --- params.yaml --------------------------------------------------------------------------------


def params_page() -> str:
    """The reference of params.yaml, from the dataclasses of topoflow/config/ and the comments of params.yaml."""
    from topoflow import config
    from topoflow.config import MODEL_SOURCES, OBJECTIVE_SOURCES, Params
    from topoflow.config.schedule import Schedule

    comments = dict(REMARKS)
    for module in ("config/sources.py", "config/sections.py", "config/schedule.py"):
        comments |= {
            key: remark for key, remark in field_comments(ROOT / "topoflow" / module).items() if remark
        }
    written = yaml_comments(ROOT / "params.yaml")
    hints = typing.get_type_hints(Params)
    lines = [
        "# params.yaml",
        "",
        "Every key of a study, made from `topoflow/config/`. An unknown key or a value of the wrong type is an error "
        "that names the nearest key; all is checked before anything is computed. A default is what holds where the key "
        "is left out; `topoflow init` writes a params.yaml in which most are spelled out. `topoflow run --set "
        "section.key=value` overrides one for one run.",
        "",
        "## The top",
        "",
        *_table(Params, "", comments, written),
    ]
    for field in dataclasses.fields(Params):
        if dataclasses.is_dataclass(hints[field.name]):
            lines += _section(hints[field.name], field.name, comments, written)
    lines += _section(config.Lora, "finetune.lora", comments, written)
    lines += _section(Schedule, "recording.schedule", comments, written)
    lines += _section(config.Joint, "sensitivity.joint", comments, written)
    for kind, sources, where in (
        ("models", MODEL_SOURCES, "`model.NAME`"),
        ("text", OBJECTIVE_SOURCES, "`objective.NAME`; those of text in line in `prompts` as well"),
    ):
        lines += ["", f"## Sources of {kind}", "", f"An entry {where}; `source` says which."]
        parts = {f"source: {name}": section for name, section in sources.items()}
        for heading, section in {
            **parts,
            **({"keys of every model": config.Opening} if kind == "models" else {}),
        }.items():
            lines += ["", f"### {heading}", "", _description(section), ""]
            lines += _table(section, "", comments, {})
    return "\n".join(lines) + "\n"


def _section(
    section: Any, name: str, comments: dict[tuple[str, str], str], written: dict[str, str]
) -> list[str]:
    return ["", f"## {name}", "", _description(section), "", *_table(section, name, comments, written)]


def _table(
    section: Any, prefix: str, comments: dict[tuple[str, str], str], written: dict[str, str]
) -> list[str]:
    hints = typing.get_type_hints(section)
    lines = ["| key | type | default | |", "|---|---|---|---|"]
    for field in dataclasses.fields(section):
        if field.name not in inspect.get_annotations(section):  # it is shown where it is defined
            continue
        path = f"{prefix}.{field.name}".lstrip(".")
        remark = written.get(path) or comments.get((section.__name__, field.name), "")
        cells = (f"`{field.name}`", _type(hints[field.name]), _default(field), remark)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return lines if len(lines) > 2 else ["It has no keys."]


def _description(section: Any) -> str:
    """What a class says of itself, before its parameters."""
    return inspect.cleandoc(section.__doc__ or "").split("\n\nParameters\n")[0]


def _type(hint: Any) -> str:
    """A type in the words of YAML."""
    from topoflow.config import ModelSource, TextSource

    names = {int: "whole number", float: "number", str: "text", bool: "true or false", types.NoneType: "null"}
    if hint in (ModelSource, TextSource):
        return "a source"
    if hint in names:
        return names[hint]
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return " or ".join(map(str, arguments))
    if origin is tuple:
        return f"list of {_type(arguments[0])}"
    if origin is dict:
        return f"mapping of a name to {_type(arguments[1])}"
    if origin in (typing.Union, types.UnionType):
        return " or ".join(map(_type, arguments))
    return "section below" if dataclasses.is_dataclass(hint) else "anything"


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        value = field.default
    elif field.default_factory is not dataclasses.MISSING:
        value = field.default_factory()
    else:
        return "required"
    if dataclasses.is_dataclass(value) and value == type(value)():
        return "that of its keys"
    return f"`{_plain(value)}`"


def _plain(value: Any) -> str:
    """A value as YAML has it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if dataclasses.is_dataclass(value):
        return f"{{{', '.join(f'{f.name}: {_plain(getattr(value, f.name))}' for f in dataclasses.fields(value))}}}"
    return f"[{', '.join(map(_plain, value))}]" if isinstance(value, tuple) else str(value)


def field_comments(path: Path) -> dict[tuple[str, str], str]:
    """The comment behind each field of each dataclass of a module, or its description in a numpydoc docstring."""
    text = path.read_text(encoding="utf-8")
    behind = {
        token.start[0]: token.string.lstrip("# ")
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT
    }
    found = {}
    for section in ast.parse(text).body:
        if not isinstance(section, ast.ClassDef):
            continue
        described = _parameters(ast.get_docstring(section) or "")
        for line in section.body:
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
                name = line.target.id
                remark = behind.get(line.end_lineno or 0, described.get(name, ""))
                found[section.name, name] = remark
    return found


def _parameters(docstring: str) -> dict[str, str]:
    """What a numpydoc docstring says of each parameter."""
    body = docstring.partition("Parameters\n----------\n")[2]
    entries = re.findall(r"^(\w[\w, ]*) : .*\n((?:    .*\n?)+)", body, flags=re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in entries for name in names.split(", ")}


def yaml_comments(path: Path) -> dict[str, str]:
    """The comment behind each key of a YAML file, by the key's path."""
    found: dict[str, str] = {}
    parents: list[tuple[int, str]] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"( *)([\w-]+):(?:[^#]*?)(?:\s# (.*))?$", line):
            indent, key, comment = len(match[1]), match[2], match[3]
            parents = [(depth, name) for depth, name in parents if depth < indent] + [(indent, key)]
            if comment:
                found[".".join(name for _, name in parents)] = comment
    return found


# --- the command line ---------------------------------------------------------------------------


def cli_page() -> str:
    """The help of every command, as it prints it."""
    from topoflow.cli import main

    lines = ["# The command line", "", "As `topoflow --help` and `topoflow COMMAND --help` print it."]
    context = click.Context(main, info_name="topoflow", max_content_width=100, terminal_width=100)
    lines += ["", "```text", main.get_help(context), "```"]
    for name in main.list_commands(context):
        command = main.get_command(context, name)
        inner = click.Context(
            command, info_name=name, parent=context, max_content_width=100, terminal_width=100
        )
        lines += ["", f"## topoflow {name}", "", "```text", command.get_help(inner), "```"]
    return "\n".join(lines) + "\n"
