"""Bundled sample rows: hand-written prompt templates and their answers, expanded from YAML."""

from __future__ import annotations

import string
from collections.abc import Mapping
from importlib import resources
from typing import Any

import yaml

from topoflow.errors import InvalidArgument, quoted

SAMPLE_NAMES = ("helpful", "harmless", "prompts", "everyday")


def load_samples(name: str) -> list[dict[str, str]]:
    """Load one bundled sample set, expanded to plain rows.

    Parameters
    ----------
    name : {"helpful", "harmless", "prompts", "everyday"}
        Which set to load. ``"prompts"`` is for evaluation only; ``"everyday"`` is what the embedded model was
        pretrained on. No prompt is in two sets.

    Returns
    -------
    list of dict
        Rows ``{"prompt": ..., "completion": ...}``, or ``{"prompt": ...}`` for ``"prompts"``. The order is
        always the same: families as in the file, then prompt templates, then items.

    Raises
    ------
    InvalidArgument
        If `name` is unknown, or if the bundled file holds a malformed family.

    Examples
    --------
    >>> rows = load_samples("helpful")
    >>> rows[0]["prompt"]
    'How do I cook brown rice so that it turns out well?'
    >>> sorted(rows[0])
    ['completion', 'prompt']
    """
    return expand_families(load_families(name), answered=name != "prompts")


def load_families(name: str) -> list[dict[str, Any]]:
    """The families of one bundled set, as its file has them; InvalidArgument if `name` is unknown."""
    if name not in SAMPLE_NAMES:
        raise InvalidArgument("name", f"one of {', '.join(SAMPLE_NAMES)}", name)
    text = (resources.files("topoflow") / "samples" / f"{name}.yaml").read_text(encoding="utf-8")
    # libyaml is some ten times faster, but PyYAML may have been built without it; both loaders are safe.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    families: list[dict[str, Any]] = yaml.load(text, Loader=loader)  # noqa: S506
    return families


def expand_families(families: Any, answered: bool = True) -> list[dict[str, str]]:
    """Expand parsed families to rows, prompt templates outermost within a family.

    Parameters
    ----------
    families : list of dict
        Families with the keys ``name``, ``prompts``, ``items`` and, if `answered`, ``completions``.
    answered : bool, default True
        Whether rows carry a completion. Prompt ``j`` with item ``i`` gets the completion template
        ``(i + j) mod n``, so that one item is not always answered in the same words.

    Returns
    -------
    list of dict
        One row per pair of prompt template and item.

    Raises
    ------
    InvalidArgument
        If a family lacks a key, has an empty list or a value of another type, or uses an unknown slot.

    Examples
    --------
    >>> tea = {"name": "tea", "prompts": ["A cup of {tea}?"], "items": [{"tea": "mint tea"}]}
    >>> expand_families([tea], answered=False)
    [{'prompt': 'A cup of mint tea?'}]
    """
    if not isinstance(families, list) or not families:
        raise InvalidArgument("families", "a non-empty list of families", families)
    rows = []
    for position, family in enumerate(families):
        label = _check_family(family, position, answered)
        for j, prompt in enumerate(family["prompts"]):
            for i, item in enumerate(family["items"]):
                row = {"prompt": _fill(prompt, item, label)}
                if answered:
                    completions = family["completions"]
                    row["completion"] = _fill(completions[(i + j) % len(completions)], item, label)
                rows.append(row)
    return rows


def _check_family(family: Any, position: int, answered: bool) -> str:
    """Return how error messages call a family, after checking its keys and lists.

    Parameters
    ----------
    family : Any
        What the file holds at `position`.
    position : int
        Index of the family in its file.
    answered : bool
        Whether the family needs completions; without them, completions are not allowed.

    Returns
    -------
    str
        The label, such as ``"families[0] (houseplant care)"``.

    Raises
    ------
    InvalidArgument
        If the family is malformed.
    """
    expected = {"name", "prompts", "items"} | ({"completions"} if answered else set())
    if not isinstance(family, dict) or set(family) != expected:
        got = sorted(map(str, family)) if isinstance(family, dict) else family
        raise InvalidArgument(f"families[{position}]", f"of the keys {sorted(expected)}", got)
    label = f"families[{position}] ({family['name']})"
    for key in sorted(expected - {"name"}):
        kind = dict if key == "items" else str
        entries = family[key]
        if not isinstance(entries, list) or not entries or not all(isinstance(e, kind) for e in entries):
            raise InvalidArgument(f"{label}: {key}", f"a non-empty list of {kind.__name__}", entries)
    return label


def _fill(template: str, item: Mapping[str, Any], label: str) -> str:
    """Fill the slots of one template with the values of one item.

    Parameters
    ----------
    template : str
        Text with named slots such as ``"How do I cook {food}?"``.
    item : mapping of str to str
        Slot values that belong together.
    label : str
        The family, for error messages.

    Returns
    -------
    str
        The text without slots.

    Raises
    ------
    InvalidArgument
        If a brace is unpaired, or a slot has no value in `item`, or its value is not text.
    """
    try:
        slots = {slot for _, slot, _, _ in string.Formatter().parse(template) if slot is not None}
    except ValueError as error:
        raise InvalidArgument(label, "of paired braces", template) from error
    for slot in sorted(slots):
        # YAML reads a bare 35 or yes as a number or a boolean, which would silently change the wording.
        if not isinstance(item.get(slot), str):
            expected = f"text, as a slot of {quoted(template)}"
            remedy = f"the slots are {sorted(item)}"
            raise InvalidArgument(f"{label}: {{{slot}}}", expected, item.get(slot), remedy)
    return template.format_map(item)
