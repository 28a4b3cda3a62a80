"""Docstrings as Markdown has them: formulas in TeX become MathML, which browsers draw without a script."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe
from latex2mathml.converter import convert


class AsMarkdown(griffe.Extension):
    """Turns what numpydoc writes in its own way, and mkdocstrings does not know, into Markdown."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called with each module, class, function and attribute that is read."""
        if obj.docstring:
            obj.docstring.value = fenced(with_mathml(obj.docstring.value))


def with_mathml(docstring: str) -> str:
    """A docstring with the formulas of `.. math::` and `:math:` drawn.

    >>> with_mathml("of :math:`x`").startswith("of <math")
    True
    """
    block = re.compile(r"^( *)\.\. math:: *(.*(?:\n\1 +\S.*)*)", flags=re.MULTILINE)
    text = block.sub(lambda found: textwrap.indent(_mathml(found[2], "block"), found[1]), docstring)
    return re.sub(r":math:`([^`]+)`", lambda found: _mathml(found[1], "inline"), text)


def fenced(docstring: str) -> str:
    """A docstring with the examples outside a section of that name as blocks of code.

    >>> fenced("Adds.\\n\\n>>> 1 + 1\\n2").splitlines()
    ['Adds.', '', '```pycon', '>>> 1 + 1', '2', '```']
    """
    before, heading, after = docstring.partition("Examples\n--------")
    text = re.sub(r"^>>> .*(?:\n.+)*", r"```pycon\n\g<0>\n```", before, flags=re.MULTILINE)
    return text + heading + after


def _mathml(tex: str, display: str) -> str:
    drawn = convert(" ".join(tex.split()).replace(r"\#", r"\text{#}"), display=display)
    # no character that Markdown would read as a mark
    return re.sub(r"[*_`\\]", lambda found: f"&#{ord(found[0])};", drawn)
