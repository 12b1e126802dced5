"""Tables of results, and how numbers are written in them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_MARKDOWN = {"<": "&lt;", "&": "&amp;", **{sign: f"\\{sign}" for sign in "\\|*_`["}}


@dataclass(frozen=True)
class Table:
    """A table of texts; the first column names the rows.

    Attributes:
        name: Stem of its files.
        title: What it shows, as a heading.
        columns: Headings, the first column's included.
        rows: One text a column.
        note: What to mind.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""

    def as_markdown(self) -> str:
        """Return the table in GitHub's Markdown; no cell can end it or bring in HTML."""
        lines = [self.columns, [":--", *["--:"] * (len(self.columns) - 1)]]
        cells = [[_escaped(cell, _MARKDOWN) for cell in row] for row in (self.columns, *self.rows)]
        lines = [cells[0], lines[1], *cells[1:]]
        text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        return f"{text}\n{_escaped(self.note, _MARKDOWN)}\n" if self.note else text

    def as_latex(self) -> str:
        """Return the table as a ``tabular`` of the booktabs package."""
        cells = [[_escaped(cell, _LATEX) for cell in row] for row in (self.columns, *self.rows)]
        head, *body = (f"{_guarded(' & '.join(row))} \\\\" for row in cells)
        lines = [
            f"% {_escaped(self.title, _LATEX)}",
            f"\\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}",
            *("\\toprule", head, "\\midrule", *body, "\\bottomrule", "\\end{tabular}"),
        ]
        return "\n".join(lines) + "\n"

    def write(self, folder: Path) -> None:
        """Write ``NAME.md`` and ``NAME.tex``."""
        (folder / f"{self.name}.md").write_text(self.as_markdown(), encoding="utf-8")
        (folder / f"{self.name}.tex").write_text(self.as_latex(), encoding="utf-8")


def _guarded(row: str) -> str:
    """Keep the command before a row from taking the row's first sign for its option."""
    return "{}" + row if row.startswith(("[", "*")) else row


def escaped_markdown(text: str) -> str:
    """Return a text that Markdown shows as it is."""
    return _escaped(text, _MARKDOWN)


def _escaped(text: str, signs: dict[str, str]) -> str:
    return "".join(signs.get(sign, sign) for sign in " ".join(text.split()))


def titled(name: str) -> str:
    """Return the name of a metric in a table, with its unit."""
    names = {"bleu": "BLEU", "chrf": "chrF", "comet": "COMET", "slot_f1": "slot F1 (%)"}
    return names.get(name, f"{name.replace('_', ' ').replace('f1', 'F1')} (%)")


def scaled(name: str, value: float) -> float:
    """Return a score as its field counts: F1 and exact match in percent."""
    return value if name in ("bleu", "chrf", "comet") else 100 * value


def shown(name: str, value: float, sign: str = "") -> str:
    """Write a score as its field does: F1 and exact match in percent, COMET with four digits."""
    return f"{scaled(name, value):{sign}.{4 if name == 'comet' else 1}f}"


def ranges(numbers: Sequence[int]) -> str:
    """Write 0, 1, 2, 5 as ``0-2, 5``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return ", ".join(texts) or "none"


def printable(text: str) -> str:
    """Replace what no file or page can show: control characters and halves of characters."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
