"""Tables in HTML, for notebooks and reports: all text is escaped, and nothing has a colour.

So they take the colours of the page around them, which may be dark.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_TEXT = ' style="text-align:left;vertical-align:top"'


def table(
    rows: Iterable[Sequence[str]],
    *,
    head: Sequence[str] | None = None,
    caption: str = "",
    text: bool = False,
) -> str:
    """A table.

    Args:
        rows: Its cells, as plain text.
        head: Names of the columns.
        caption: What stands above it.
        text: The cells are for reading, not figures: they start at the left.
    """
    heads = "" if head is None else f"<thead>{_row(head, 'th')}</thead>"
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    style = _TEXT if text else ""
    body = "".join(_row(row, "td", style) for row in rows)
    return f"<table>{title}{heads}<tbody>{body}</tbody></table>"


def beside(parts: Iterable[str]) -> str:
    """Tables beside each other, as far as there is room."""
    style = "display:flex;flex-wrap:wrap;align-items:start;gap:0 2em"
    return f'<div style="{style}">{"".join(parts)}</div>'


def folded(title: str, content: str, *, is_open: bool = False) -> str:
    """Content that a click on its title shows and hides."""
    opened = " open" if is_open else ""
    summary = f'<summary style="cursor:pointer">{escape(title)}</summary>'
    body = f'<div style="margin-left:1.5em">{content}</div>'
    return f"<details{opened}>{summary}{body}</details>"


def _row(cells: Iterable[str], tag: str, style: str = "") -> str:
    return f"<tr>{''.join(f'<{tag}{style}>{escape(cell)}</{tag}>' for cell in cells)}</tr>"
