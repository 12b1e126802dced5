"""Presentation of results: tables, lines, and the format of numbers in them."""

import csv
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from itertools import chain
from pathlib import Path
from typing import Any, Literal

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
_NAMES = {"bleu": "BLEU", "chrf": "chrF", "comet": "COMET"}
# Words in the names of metrics that are between 0 and 1, also in lm-eval.
_SHARE = re.compile(
    r"(?<![^\W_])(?:acc|accuracy|f1|fscore|em|match|score|precision|recall|rate|pct|mrr|verify|reward"
    r"|(?:r|p|pass|hits)(?:@|_at_)\d+)(?![^\W_])",
    re.IGNORECASE,
)
_RAW = " (raw)"
_NOT_IN_FILES = str.maketrans("/\0", "--")
Look = Literal["", "strong", "ok", "warn", "missing", "trained"]


@dataclass(frozen=True)
class Cell:
    """A text with a value and a style.

    Attributes:
        text: The displayed text.
        value: The value for CSV, such as a number with all digits; None for the text.
        look: The style.
    """

    text: str
    value: Any = None
    look: Look = ""

    def __str__(self) -> str:
        return self.text


Content = str | float | Cell
Row = Sequence[Content]
Line = str | Cell | tuple[str | Cell, ...]

RULE: tuple[()] = ()  # instead of a row: a line between the rows before and after it


@dataclass(frozen=True)
class Table:
    """A table of results; the first column names the rows.

    A table without columns is a list of pairs. In a terminal, tables with a title have borders.

    Attributes:
        name: Stem of its file names.
        title: Heading of the table.
        columns: Column headings, including the first column's.
        rows: Rows with one cell per column, or ``RULE``.
        note: Note for readers of the page or file.
        align: ``l`` or ``r`` per column; by default the first is left-aligned, others right.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Row]
    note: str = ""
    align: str = ""

    @property
    def sides(self) -> str:
        """Alignment of every column."""
        if self.columns:
            return self.align or "l" + "r" * (len(self.columns) - 1)
        return self.align or "ll"

    @property
    def groups(self) -> list[list[list[Cell]]]:
        """The rows, grouped by the lines between them."""
        groups: list[list[list[Cell]]] = [[]]
        for row in self.rows:
            if row:
                groups[-1].append([c if isinstance(c, Cell) else Cell(str(c), c) for c in row])
            else:
                groups.append([])
        return [group for group in groups if group]

    def as_markdown(self) -> str:
        """Return the table in GitHub's Markdown, with escaped cells that cannot inject HTML."""
        head = [escaped_markdown(name) for name in self.columns] or [""] * len(self.sides)
        body = [
            [_marked(escaped_markdown(cell.text), cell, "**{}**") for cell in row]
            for row in chain(*self.groups)
        ]
        lines = [head, [":--" if side == "l" else "--:" for side in self.sides], *body]
        text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
        return f"{text}\n{escaped_markdown(self.note)}\n" if self.note else text

    def as_latex(self) -> str:
        """Return the table as a ``tabular`` of the booktabs package."""
        head = _latex_row([_escaped(name, _LATEX) for name in self.columns])
        groups = [
            "\n".join(
                _latex_row([_marked(_escaped(c.text, _LATEX), c, r"\textbf{{{}}}") for c in row])
                for row in group
            )
            for group in self.groups
        ]
        lines = [
            f"% {_escaped(self.title, _LATEX)}",
            f"\\begin{{tabular}}{{{self.sides}}}",
            "\\toprule",
            *([head, "\\midrule"] if self.columns else []),
            *(["\n\\midrule\n".join(groups)] if groups else []),
            *("\\bottomrule", "\\end{tabular}"),
        ]
        return "\n".join(lines) + "\n"

    def as_csv(self) -> str:
        """Return the table as CSV with unformatted values, one line per row."""
        file = StringIO()
        writer = csv.writer(file)
        writer.writerows([self.columns] if self.columns else [])
        writer.writerows([_raw(cell) for cell in row] for row in self.rows if row)
        return file.getvalue()

    def write(self, folder: Path, *kinds: Literal["csv", "md", "tex"]) -> None:
        """Write ``NAME.KIND`` for each kind."""
        made = {"csv": self.as_csv, "md": self.as_markdown, "tex": self.as_latex}
        for kind in kinds:
            path = folder / f"{self.name.translate(_NOT_IN_FILES)}.{kind}"
            path.write_text(made[kind](), encoding="utf-8", newline="")


def pairs(rows: Mapping[str, Content] | Iterable[Row]) -> Table:
    """Return names and values as a table without headings."""
    return Table("", "", (), list(rows.items() if isinstance(rows, Mapping) else rows))


@dataclass(frozen=True)
class View:
    """A command's result as tables and text.

    Attributes:
        shown: The result: tables and lines of text.
        remarks: Remarks that are not part of the result.
    """

    shown: Sequence[Table | Line]
    remarks: Sequence[str] = ()


def noted(notes: Iterable[str]) -> list[str]:
    """Prefix notes with ``note:``, as remarks."""
    return [f"note: {note}" for note in notes]


def _raw(cell: Content) -> Any:
    if not isinstance(cell, Cell):
        return cell
    return cell.text if cell.value is None else cell.value


def _marked(text: str, cell: Cell, mark: str) -> str:
    return mark.format(text) if text and cell.look == "strong" else text


def _latex_row(cells: Sequence[str]) -> str:
    """Join cells; ``{}`` keeps LaTeX from reading a leading ``[`` or ``*`` as an option."""
    row = " & ".join(cells)
    return f"{{}}{row} \\\\" if row.startswith(("[", "*")) else f"{row} \\\\"


def escaped_markdown(text: str) -> str:
    """Escape a text for Markdown."""
    return _escaped(text, _MARKDOWN)


def _escaped(text: str, signs: dict[str, str]) -> str:
    return "".join(signs.get(sign, sign) for sign in " ".join(text.split()))


def titled(name: str) -> str:
    """Return a metric's name for tables, with its unit."""
    text = _NAMES.get(name, name.replace("_", " ").replace("f1", "F1"))
    return f"{text} (%)" if is_share(name) else text


def is_share(name: str) -> bool:
    """Whether a metric is between 0 and 1, and is shown in percent.

    lm-eval does not say so. Its metrics whose names do not tell are shown as they are.
    """
    return not name.endswith(_RAW) and _SHARE.search(name) is not None


def raw(name: str) -> str:
    """Return the name of a metric whose values are not between 0 and 1, as its name says."""
    return f"{name}{_RAW}" if is_share(name) else name


def scaled(name: str, value: float) -> float:
    """Convert a score to its usual scale: percent if it is between 0 and 1, except for COMET."""
    return 100 * value if is_share(name) else value


def shown(name: str, value: float, sign: str = "") -> str:
    """Format a score in its usual scale.

    COMET has four digits after the point, other metrics one. Those of unknown scale have four
    digits.
    """
    digits = ".1f" if is_share(name) or name in _NAMES else ".4g"
    return f"{scaled(name, value):{sign}{'.4f' if name == 'comet' else digits}}"


def ends_shown(name: str, low: float, high: float, sign: str = "+") -> tuple[str, str]:
    """Format the ends of an interval so that it seems to hold zero only if it does.

    If zero is outside, an end that would be rounded to zero has one significant digit.
    """
    ends = shown(name, low, sign), shown(name, high, sign)
    if low > 0 and not float(ends[0]):
        return f"{scaled(name, low):{sign}.1g}", ends[1]
    if high < 0 and not float(ends[1]):
        return ends[0], f"{scaled(name, high):{sign}.1g}"
    return ends


def p_shown(p_value: float) -> str:
    """Format a p-value, which is never 0, and 0.050 only if it is not below 0.05."""
    if p_value < 0.001:
        return "<0.001"
    text = f"{p_value:.3f}"
    return "<0.050" if p_value < 0.05 and text == "0.050" else text


def counted(counts: Mapping[str, int]) -> str:
    """Format counts by name on one line."""
    return "  ".join(f"{name} {count:,}" for name, count in counts.items())


def number_of(count: int, noun: str) -> str:
    """Format a number with its noun, as ``1 row`` or ``2,000 rows``."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def ranges(numbers: Sequence[int]) -> str:
    """Format 0, 1, 2, 5 as ``0-2, 5``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return ", ".join(texts) or "none"


def printable(text: str) -> str:
    """Replace control characters and unpaired surrogates, which no file or page can show."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
