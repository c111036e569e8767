"""The page of the report: one HTML file that loads nothing. Texts of the web are written as texts, never as HTML."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from vlkit.capfilt.report.drawing import Drawing
from vlkit.capfilt.report.examples import Example, encoded
from vlkit.capfilt.report.picture import score

_STYLE = """
:root{--ink:#222;--soft:#666;--line:#e3e3e3;--kept:#1b7a2f;--dropped:#b3261e;--web:#c2571a;--synthetic:#1f6fb2}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:#fff;
  max-width:1200px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0}h2{font-size:1.15rem;margin:2.2rem 0 .6rem}p{margin:.3rem 0;color:var(--soft)}
.facts{display:flex;flex-wrap:wrap;gap:.8rem;margin:1.2rem 0}
.fact{flex:1 1 9.5rem;border:1px solid var(--line);border-radius:8px;padding:.6rem 1rem}
.fact b{display:block;font-size:1.4rem;font-weight:600}.fact span{color:var(--soft);font-size:.85rem}
.charts{display:flex;flex-wrap:wrap;gap:1rem 3rem}svg{width:500px;max-width:100%;height:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
td,th{padding:.2rem .9rem .2rem 0;text-align:left;border-bottom:1px solid var(--line);vertical-align:top}
td.n,th.n{text-align:right}td.t{overflow-wrap:anywhere}
.tables{display:flex;flex-wrap:wrap;gap:2.5rem}
.images{display:flex;flex-wrap:wrap;gap:1rem;margin-top:.8rem}
.image{box-sizing:border-box;width:220px;
  border:1px solid var(--line);border-radius:8px;padding:.5rem;overflow-wrap:anywhere;font-size:.85rem}
.image img{display:block;width:100%;height:190px;object-fit:contain;background:#f6f6f6;border-radius:4px}
.image small{color:var(--soft);font-size:.7rem}
.text{border-left:3px solid;padding-left:.45rem;margin:.35rem 0}
.web{border-color:var(--web)}.synthetic{border-color:var(--synthetic)}
.kept{color:var(--kept)}.dropped{color:var(--dropped)}.dropped q{text-decoration:line-through}
q{quotes:none}.border{background:#fff6da}.scores{color:var(--soft);white-space:nowrap}
"""
# A browser that honors this runs no script and loads nothing, whatever a text holds.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, parts: Iterable[str]) -> str:
    """The whole document; ``parts`` are HTML."""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f'<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style></head>\n<body><h1>{_text(title)}</h1>\n"
        + "\n".join(parts)
        + "\n</body></html>\n"
    )


def heading(words: str, explained: str = "") -> str:
    """A section begins."""
    return f"<h2>{_text(words)}</h2>{paragraph(explained) if explained else ''}"


def paragraph(words: str) -> str:
    """Running text."""
    return f"<p>{_text(words)}</p>"


def facts(shown: Mapping[str, str]) -> str:
    """Large numbers: what they are to what is shown."""
    boxes = (
        f'<div class="fact"><b>{_text(value)}</b><span>{_text(name)}</span></div>' for name, value in shown.items()
    )
    return f'<div class="facts">{"".join(boxes)}</div>'


def charts(drawings: Mapping[str, Drawing]) -> str:
    """Charts beside each other, by description."""
    return f'<div class="charts">{"".join(drawing.svg(name) for name, drawing in drawings.items())}</div>'


def tables(shown: Mapping[str, Sequence[tuple[str, Any]]]) -> str:
    """Tables of two columns beside each other: heading to rows of a text and a number."""
    return f'<div class="tables">{"".join(_table(name, rows) for name, rows in shown.items())}</div>'


def examples(shown: Sequence[Example]) -> str:
    """Images with their texts."""
    return f'<div class="images">{"".join(map(_example, shown))}</div>'


def _table(name: str, rows: Sequence[tuple[str, Any]]) -> str:
    lines = "".join(f'<tr><td class="t">{_text(key)}</td><td class="n">{_text(value)}</td></tr>' for key, value in rows)
    return f'<div><table><tr><th>{_text(name)}</th><th class="n"></th></tr>{lines}</table></div>'


def _example(example: Example) -> str:
    kind, data = encoded(example.picture)
    texts = "".join(_scored(text, number == example.border) for number, text in enumerate(example.texts))
    source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
    return (
        f'<div class="image"><img src="{source}" alt="">{texts or paragraph("no text")}'
        f"<small>{_text(example.shard)} / {_text(example.key)}</small></div>"
    )


def _scored(text: Mapping[str, Any], border: bool) -> str:
    scores = " ".join(f"{name} {score(text[name])}" for name in ("itm", "itc") if text[name] is not None)
    return (
        f'<div class="text {_text(text["source"])} {"kept" if text["kept"] else "dropped"}{" border" * border}">'
        f'<q>{_text(text["text"])}</q> <span class="scores">{scores}</span></div>'
    )


def _text(words: object) -> str:
    """Anything as text of HTML. Characters that change the direction of what follows are shown as their numbers."""
    shown = "".join(f"U+{ord(c):04X}" if c in _DIRECTIONS else c for c in str(words))
    return html.escape(shown, quote=True)


_DIRECTIONS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
