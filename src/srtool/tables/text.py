"""Tables as text for documents: Markdown for READMEs, LaTeX for papers, HTML for the report."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import Literal

from srtool.tables.table import EMPTY, Cell, Row, Table

Format = Literal["md", "latex", "html"]

_LATEX = str.maketrans(
    {
        **{sign: f"\\{sign}" for sign in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "−": "$-$",
        "×": r"$\times$",
        "Δ": r"$\Delta$",
        "↑": r"$\uparrow$",
        "↓": r"$\downarrow$",
        "∞": r"$\infty$",
        "≥": r"$\geq$",
        "±": r"$\pm$",
        "–": "--",
        "\u202f": r"\,",
        "\u00a0": "~",
        "\u2011": "-",
    }
)


def text_of(table: Table, form: Format) -> str:
    return {"md": markdown, "latex": latex, "html": html}[form](table)


def markdown(table: Table, caption: bool = True) -> str:
    """A pipe table. Titles of groups become a first column, empty cells stay empty."""
    titled = any(group.title for group in table.groups)
    head = ["", *table.columns] if titled else list(table.columns)
    left = table.words + titled
    rows = [
        [_markdown(Cell(group.title)), *map(_markdown, row)]
        if titled
        else list(map(_markdown, row))
        for group in table.groups
        for row in group.rows
    ]
    rule = ["---"] * left + ["---:"] * (len(head) - left)
    lines = [[_markdown(Cell(title)) for title in head], rule, *rows]
    text = "\n".join(
        "|" + "".join(f" {cell} |" if cell else " |" for cell in line) for line in lines
    )
    before = f"{table.caption}\n\n" if caption and table.caption else ""
    after = "".join(f"\n\n{remark}" for remark in table.remarks) if caption else ""
    return f"{before}{text}{after}"


def _markdown(cell: Cell) -> str:
    text = _noted(cell).replace("\\", "\\\\").replace("|", r"\|").replace("\n", " ")
    text = text.replace("<", "&lt;").replace("*", r"\*")
    return f"**{text}**" if cell.best else text


def _noted(cell: Cell) -> str:
    text = "" if cell.text == EMPTY else cell.text
    return f"{text} ({cell.note})" if cell.note else text


def latex(table: Table) -> str:
    r"""A `tabular` of the package booktabs, in a `table` with its caption."""
    columns = len(table.columns)
    form = "l" * table.words + "r" * (columns - table.words)
    lines = [r"\begin{table}", r"\centering"]
    lines += [rf"\caption{{{_escaped(table.caption)}}}"] if table.caption else []
    lines += [rf"\begin{{tabular}}{{{form}}}", r"\toprule"]
    lines += [_latex_row(_escaped(title) for title in table.columns)]
    for group in table.groups:
        lines.append(r"\midrule")
        if group.title:
            lines.append(
                rf"\multicolumn{{{columns}}}{{l}}{{\textit{{{_escaped(group.title)}}}}} \\"
            )
        lines += [_latex_row(map(_latex, row)) for row in group.rows]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\\ {{\footnotesize {_escaped(remark)}}}" for remark in table.remarks]
    return "\n".join([*lines, r"\end{table}"])


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex(cell: Cell) -> str:
    text = _escaped(_noted(cell))
    return rf"\textbf{{{text}}}" if cell.best else text


def _escaped(text: str) -> str:
    return text.translate(_LATEX)


def html(table: Table) -> str:
    """A <table> in a region that scrolls where it must, its remarks below. Each cell carries the
    title of its column as `data-title`: on a narrow page each row can stand as a list."""
    caption = escape(table.caption)
    titles = "".join(
        f'<th scope="col"{_class(at, table.words, Cell(""))}>{escape(title)}</th>'
        for at, title in enumerate(table.columns)
    )
    bodies = []
    for group in table.groups:
        rows = "\n".join(_html_row(table, row) for row in group.rows)
        if group.title:
            rows = (
                f'<tr class="group"><th scope="rowgroup" colspan="{len(table.columns)}">'
                f"<span>{escape(group.title)}</span></th></tr>\n{rows}"
            )
        bodies.append(f"<tbody>\n{rows}\n</tbody>\n")
    remarks = "".join(f'\n<p class="remark">{escape(remark)}</p>' for remark in table.remarks)
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{caption}">\n<table>\n'
        f"<caption>{caption}</caption>\n<thead>\n<tr>{titles}</tr>\n</thead>\n"
        f"{''.join(bodies)}</table>\n</div>{remarks}"
    )


def _html_row(table: Table, row: Row) -> str:
    cells = []
    for at, (title, cell) in enumerate(zip(table.columns, row, strict=True)):
        tag, scope = ("th", ' scope="row"') if at == 0 else ("td", "")
        note = f"<small>{escape(cell.note)}</small>" if cell.note else ""
        empty = " hidden-narrow" if cell.text in (EMPTY, "") else ""
        cells.append(
            f'<{tag}{scope}{_class(at, table.words, cell, empty)} data-title="{escape(title)}">'
            f"{escape(cell.text)}{note}</{tag}>"
        )
    return f"<tr>{''.join(cells)}</tr>"


def _class(at: int, words: int, cell: Cell, more: str = "") -> str:
    name = "word" if at < words else "best" if cell.best else ""
    names = f"{name}{more}".strip()
    return f' class="{names}"' if names else ""
