"""Tables: every rendering holds every cell, and no cell gets out of its place."""

import csv
import re
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from adaptermix.cli import console
from adaptermix.reports import page
from adaptermix.reports.runs import Runs
from adaptermix.reports.sections.section import Section
from adaptermix.tables import (
    RULE,
    Cell,
    Table,
    View,
    ends_shown,
    number_of,
    p_shown,
    pairs,
    printable,
    ranges,
    scaled,
    shown,
    titled,
)

HOSTILE = [
    *(
        "a|b",
        "\\",
        "\\|",
        "\\\\",
        "||",
        "*x* **y** _z_",
        "`a",
        "[red]x[/]",
        "[bold",
        "]",
        "![x](y)",
    ),
    *("<b>", "&lt;", "</td></table><script>alert(1)</script>", "<!--", "{{ 1 }}", "{% raw %}"),
    *("$x_1^2$", "100%", "#1", "a & b", "~", "{", "}", "\\end{tabular}", "*", "a \\\\ b"),
    *("one\ntwo", "one\n\n| a | b |", '"', 'a","b', ",", ";", ":smile:", "-", "=1+1", "é漢", " a "),
]
PRINTED = st.text("|\\*_`[]<>&$%#{}~^\"',;:-=+! \nax1é", min_size=1)


class Cells(HTMLParser):
    """The texts of a page's table cells, row by row, and the names of all its tags."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags, self.is_open = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        self.is_open = self.is_open or tag in ("td", "th")
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        self.is_open = self.is_open and tag not in ("td", "th")

    def handle_data(self, data):
        if self.is_open:
            self.rows[-1][-1] += data


def as_html(table):
    sections = [Section("s", "S", tables=[table])]
    text = page._render("title", Runs([], [], [], [], []), sections, [])
    return text[text.index("<table") : text.index("</section>")]


def on_terminal(table):
    with console.results.capture() as capture:
        console.show_view(View([table]))
    return capture.get()


def from_latex(row):
    """Read a row of a tabular as LaTeX does: nothing but escapes has a meaning of its own."""
    words = {"textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^"}
    words |= {"textless": "<", "textgreater": ">", "textbar": "|"}
    body = row.removesuffix(r" \\").removeprefix("{}")
    cells = [""]
    for token in re.findall(r"\\[a-z]+\{\}|\\textbf\{|\\.|.", body):
        if token == "&":
            cells.append("")
        elif token in (r"\textbf{", "}"):
            pass
        elif word := re.fullmatch(r"\\([a-z]+)\{\}", token):
            cells[-1] += words[word[1]]
        else:
            assert token[0] == "\\" or token not in set("%$#_{}~^<>|\\")
            cells[-1] += token.removeprefix("\\")
    return [cell.strip() for cell in cells]


def squeezed(rows):
    return [[" ".join(str(cell).split()) for cell in row] for row in rows]


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setattr(console.results, "_width", 400)


def check(table):
    """Hold every rendering of a table against its cells."""
    rows = [row for row in table.rows if row]
    shown = [table.columns, *rows] if table.columns else rows
    html = Cells(as_html(table))
    assert squeezed(html.rows) == squeezed(shown)
    assert set(html.tags) <= {*"table caption thead tbody tr th td p strong a".split()}
    assert html.tags.count("a") == 1  # the table as CSV
    markdown = Cells(MarkdownIt("commonmark").enable("table").render(table.as_markdown()))
    assert squeezed(markdown.rows[0 if table.columns else 1 :]) == squeezed(shown)
    assert set(markdown.tags) <= {*"table thead tbody tr th td p strong".split()}
    latex = [line for line in table.as_latex().splitlines() if line.endswith(r" \\")]
    assert [from_latex(row) for row in latex] == squeezed(shown)
    values = [[getattr(c, "value", None) or getattr(c, "text", c) for c in row] for row in shown]
    assert list(csv.reader(StringIO(table.as_csv(), newline=""))) == values
    drawn = on_terminal(table)
    assert all(line in drawn for row in shown for c in row for line in str(c).split("\n"))


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("look", ["", "strong"])
def test_every_rendering_holds_every_cell(text, look):
    cell = Cell(text, look=look)
    rows = [[text, cell, "1.0"], RULE, [cell, "x", text]]
    check(Table("name", text, [text, "two", text], rows, f"see {text}"))
    check(Table("name", "", ["one", text, "three"], rows, align="rlr"))
    check(pairs({text: cell, "second": text}))


@given(text=PRINTED, look=st.sampled_from(["", "strong"]))
def test_no_text_ends_a_table(text, look):
    text = f"x{text}x"  # a terminal shows no line that is empty
    check(Table("t", "t", ["a", "b"], [[text, Cell(text, look=look)]]))


def test_csv_has_values_where_people_read_texts():
    table = Table(
        "t", "t", ["a", "b", "c"], [["x", Cell("12.3", 0.12345), 7], RULE, ["y", 0.1, ""]]
    )
    assert table.as_csv() == "a,b,c\r\nx,0.12345,7\r\ny,0.1,\r\n"
    assert "| x | 12.3 | 7 |\n" in table.as_markdown()


def test_rules_part_groups_and_are_no_rows(tmp_path):
    table = Table("t", "t", ["a"], [RULE, ["x"], RULE, RULE, ["y"], ["z"], RULE])
    assert [[row[0].text for row in group] for group in table.groups] == [["x"], ["y", "z"]]
    assert as_html(table).count("<tbody>") == 2
    assert table.as_latex().count(r"\midrule") == 2
    assert on_terminal(table).count("├") == 1
    table.write(tmp_path, "csv", "tex")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["t.csv", "t.tex"]


def test_a_table_without_a_title_has_no_lines_around_it():
    table = Table("t", "", ["name", "count"], [["x", "10"]])
    assert on_terminal(table) == "name  count\nx        10\n"
    assert on_terminal(replace(table, title="title")).count("┃") == 3
    assert on_terminal(pairs({"a name": "1", "b": "2"})) == "a name  1\nb       2\n"


def test_remarks_are_no_part_of_the_result(capsys):
    console.show_view(View(["[a] line", ("state: ", Cell("ok", look="ok"))], ["[a] remark"]))
    assert capsys.readouterr() == ("[a] line\nstate: ok\n", "[a] remark\n")


@given(text=st.text(st.characters()))
def test_printable_text_can_be_written(text):
    shown = printable(text)
    shown.encode("utf-8")
    assert "\x00" not in shown
    assert len(shown) == len(text)


def test_ranges():
    assert ranges([0, 1, 2, 5]) == "0-2, 5"
    assert ranges([]) == "none"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (2000, "2,000 rows")]
)
def test_a_noun_agrees_with_its_number(count, text):
    assert number_of(count, "row") == text


@pytest.mark.parametrize(
    ("name", "value", "title", "text"),
    [
        ("slot_f1", 0.2534, "slot F1 (%)", "+25.3"),
        ("exact_match", 0.5, "exact match (%)", "+50.0"),
        ("bleu", 25.34, "BLEU", "+25.3"),
        ("comet", 0.81234, "COMET", "+0.8123"),
        ("exact_match:flexible-extract", 0.5, "exact match:flexible-extract (%)", "+50.0"),
        ("acc_norm", 0.5, "acc norm (%)", "+50.0"),
        ("r@1", 0.5, "r@1 (%)", "+50.0"),
        ("bleu_acc", 0.5, "bleu acc (%)", "+50.0"),
        ("bleu_max", 25.34, "bleu max", "+25.34"),
        ("rougeL", 0.12345, "rougeL", "+0.1235"),
        ("eqbench", 55.123, "eqbench", "+55.12"),
        ("pass_at_1", 0.5, "pass at 1 (%)", "+50.0"),
        ("math_verify", 0.5, "math verify (%)", "+50.0"),
        ("em (raw)", 45.2, "em (raw)", "+45.2"),
        ("mixed_scales", 55.0, "mixed scales", "+55"),
    ],
)
def test_only_what_is_between_0_and_1_is_shown_in_percent(name, value, title, text):
    """lm-eval's metrics have any scale, and it does not say which."""
    assert (titled(name), shown(name, value, "+")) == (title, text)
    assert scaled(name, value) == (100 * value if "%" in title else value)


@pytest.mark.parametrize(
    ("low", "high", "ends"),
    [
        (0.012, 0.034, ("+1.2", "+3.4")),
        (0.0004, 0.034, ("+0.04", "+3.4")),
        (-0.034, -0.0000123, ("-3.4", "-0.001")),
        (-0.0004, 0.0004, ("-0.0", "+0.0")),
        (0.0, 0.034, ("+0.0", "+3.4")),
    ],
)
def test_an_interval_without_zero_does_not_seem_to_hold_it(low, high, ends):
    """It stands beside a star."""
    assert ends_shown("slot_f1", low, high) == ends


def test_the_ends_of_metrics_of_other_scales():
    assert ends_shown("bleu", 0.04, 1.0) == ("+0.04", "+1.0")
    assert ends_shown("comet", 0.00001, 0.1) == ("+1e-05", "+0.1000")
    assert ends_shown("perplexity", 0.00001, 0.1) == ("+1e-05", "+0.1")


@pytest.mark.parametrize(
    ("p_value", "text"),
    [(0.0004, "<0.001"), (0.0312, "0.031"), (50 / 1001, "<0.050"), (0.05, "0.050")],
)
def test_a_p_value_below_005_is_not_shown_as_005(p_value, text):
    """The largest one below it of 1,000 resamples is 0.04995."""
    assert p_shown(p_value) == text
