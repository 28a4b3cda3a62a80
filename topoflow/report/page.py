"""Pieces of a self-contained HTML page: all text is escaped here, and nothing is loaded from anywhere.

Pure: text and numbers in, HTML out. A piece is a `str` of HTML; text becomes one by `escape`.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from topoflow.dynamics.claims.reading import MARKS, in_order, rungs, sort_of


def code(text: str) -> str:
    return f"<code>{escape(text)}</code>"


def paragraph(html: str, kind: str = "") -> str:
    return f'<p class="{kind}">{html}</p>' if kind else f"<p>{html}</p>"


def prose(text: str) -> str:
    """Text with the Markdown of the notes in it (`**bold**`, `*italic*`, `` `code` ``), as HTML.

    >>> prose("**Not** shown: `a < b`")
    '<strong>Not</strong> shown: <code>a &lt; b</code>'
    """
    html = escape(text)
    for mark, tag in ((r"\*\*", "strong"), (r"\*", "em"), ("`", "code")):
        html = re.sub(rf"{mark}(\S(?:.*?\S)?){mark}", rf"<{tag}>\1</{tag}>", html)
    return html


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, kind: str = "", words: int = 1) -> str:
    """A table of cells that are HTML already; all columns but the first `words` hold numbers."""

    def line(tag: str, cells: Sequence[str]) -> str:
        number = ' class="number"'
        return "".join(f"<{tag}{number if at >= words else ''}>{c}</{tag}>" for at, c in enumerate(cells))

    body = "\n".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    head = f"<thead><tr>{line('th', header)}</tr></thead>"
    return f'<div class="scroll"><table class="{kind}">{head}<tbody>\n{body}\n</tbody></table></div>'


def verdict(words: str) -> str:
    """A verdict in words, with a mark and a colour."""
    sort = sort_of(words)
    return f'<span class="verdict {sort}">{MARKS[sort]} {escape(words)}</span>'


def claims_table(claims: Iterable[Mapping[str, Any]]) -> str:
    """Claims with their verdicts, ladders, statistics, rules, values and p-values."""
    rows = []
    for claim in in_order(claims):
        value = shown(claim["value"], ".3g")
        if claim["low"] is not None and claim["high"] is not None:
            value += f"<div>[{shown(claim['low'], '.3g')}, {shown(claim['high'], '.3g')}]</div>"
        of = f"<b>{escape(claim['homology'])}</b> " if claim["homology"] else ""
        rule = claim["rule"].replace("<=", "≤").replace(">=", "≥")
        counted = _lines(f"Value: {claim['statistic']}.", f"Rule: {rule}.")
        said = _lines(claim.get("why", ""), claim.get("beside", ""))
        what = of + escape(claim["statement"]) + ladder(claim["steps"]) + said
        rows.append([verdict(claim["verdict"]), what + fold("value and rule", counted), value])
        rows[-1].append(shown(claim["p"], ".2g"))
    return table(
        ["verdict", "claim", "value<br>[95\u00a0%\u00a0interval]", "p"], rows, kind="claims", words=2
    )


def _lines(*texts: str) -> str:
    return "".join(f"<div>{escape(text)}</div>" for text in texts if text)


def ladder(steps: Iterable[Sequence[str]]) -> str:
    """The rungs that a claim climbed, each with a mark; the last one decided."""
    climbed = "".join(f"<li>{escape(rung)}</li>" for rung in rungs(steps))
    return f'<ol class="ladder">{climbed}</ol>' if climbed else ""


def shown(value: float | None, spec: str) -> str:
    """A number, with a dash where there is none."""
    return "–" if value is None else format(value, spec).replace("-", "−")


def facts(pairs: Mapping[str, str]) -> str:
    """Names (text) and what they are (HTML)."""
    rows = "\n".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in pairs.items())
    return f'<dl class="facts">\n{rows}\n</dl>'


def fold(summary: str, body: str, *, kind: str = "more", anchor: str = "", unfolded: bool = False) -> str:
    """A part that opens at a click; `summary` and `body` are HTML."""
    state = (f' id="{escape(anchor)}"' if anchor else "") + (" open" if unfolded else "")
    return f'<details class="{kind}"{state}><summary>{summary}</summary><div>\n{body}\n</div></details>'


def picture(png: bytes, alt: str, caption: str = "") -> str:
    """A picture inside the page, in at most 256 colours: a third of the bytes, and no difference to the eye."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        few = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        width, height = image.size
    buffer = io.BytesIO()
    few.save(buffer, "PNG")
    data = base64.b64encode(buffer.getvalue()).decode()
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    size = f'width="{width}" height="{height}"'
    return f'<figure><img {size} alt="{escape(alt)}" src="data:image/png;base64,{data}">{words}</figure>'


def chart(spec: Mapping[str, Any], caption: str) -> str:
    """A chart that answers to the pointer, drawn by page.js from what `topoflow.report.charts` makes."""
    return (
        f'<figure class="chart"><div class="sheet"><form></form><svg role="img" aria-label="{escape(spec["title"])}">'
        f'</svg></div><script type="application/json">{script_json(spec)}</script>'
        f"<noscript><p>This chart needs JavaScript; a picture below shows the same.</p></noscript>"
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def script_json(value: Any) -> str:
    r"""JSON that can stand in a script element: no `<`, `>` or `&` in it; numbers to six digits, NaN as null.

    >>> script_json({"a": "</script>"})
    '{"a":"\\u003c/script\\u003e"}'
    """
    text = json.dumps(_rounded(value), sort_keys=True, allow_nan=False, separators=(",", ":"))
    return re.sub("[<>&]", lambda sign: f"\\u{ord(sign.group()):04x}", text)


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(inner) for inner in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def document(title: str, body: str) -> bytes:
    """A whole page around `body`, with its style and script inside.

    Its policy lets a browser load nothing and run no script but this one.
    """
    style, script = (
        f"\n{files('topoflow.report').joinpath(f'page.{kind}').read_text(encoding='utf-8')}"
        for kind in ("css", "js")
    )
    digests = [base64.b64encode(hashlib.sha256(code.encode()).digest()).decode() for code in (style, script)]
    policy = (
        f"default-src 'none'; img-src data:; style-src 'sha256-{digests[0]}'; "
        f"script-src 'sha256-{digests[1]}'; base-uri 'none'; form-action 'none'"
    )
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
{body}
<script>{script}</script>
</body>
</html>
"""
    return page.encode()
