"""Plot a system and its baseline by language, from a table of differences of eval or compare.py.

python examples/gemma/picture.py DIFFERENCES.csv SYSTEM OUT

writes OUT-light.svg and OUT-dark.svg, and OUT-narrow-light.svg and OUT-narrow-dark.svg for phones;
README.md has the command for its picture.
"""

import argparse
import csv
from pathlib import Path

from adaptermix.evaluation.comparison import ALL
from adaptermix.plots.drawing import THEMES
from adaptermix.plots.intervals import Estimate, Groups, forest
from adaptermix.plots.plot import Plot, titled_panel
from adaptermix.plots.scales import around_zero
from adaptermix.reports.sections.roles import label_of

WIDTHS = {"": 640, "-narrow": 350}


def estimate(row: dict[str, str]) -> Estimate:
    """Return a comparison as a row of the plot, labelled with both scores."""
    value, low, high = (100 * float(row[name]) for name in ("difference", "low", "high"))
    langs = row["langs"].split()
    p = row.get("p_holm") or row.get("p_value")
    # Over seeds there is no p that could be corrected over the languages, so only means are clear.
    is_sure = float(p) < 0.05 if p else len(langs) > 1 and row["excludes_zero"] == "True"
    look = "unclear" if not is_sure else "better" if value > 0 else "worse"
    says = f"{100 * float(row['baseline_score']):.1f} → {100 * float(row['score']):.1f}"
    label = label_of(row["over"]) if len(langs) == 1 else f"mean of {len(langs)}"
    return Estimate(label, value, low, high, look, says, is_mean=len(langs) > 1)


def groups_of(rows: list[dict[str, str]]) -> Groups:
    """Group the languages, best first, followed by the mean of the group."""
    single = [row for row in rows if row["over"] == row["langs"]]
    groups = []
    for group in (row for row in rows if row not in single):
        members = [row for row in single if row["over"] in group["langs"].split()]
        members.sort(key=lambda row: -float(row["difference"]))
        shown = [] if group["over"] == ALL else members
        name = "all languages" if group["over"] == ALL else group["over"]
        groups.append((name, [estimate(row) for row in (*shown, group)]))
    return groups


def picture(path: Path, system: str, width: int) -> Plot:
    """Plot the system's differences from its baseline."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["system"] == system]
    groups, baseline = groups_of(rows), rows[0]["baseline"]
    span = around_zero(end for _, found in groups for row in found for end in (row.low, row.high))
    axis = f"{system} minus {baseline}, points of slot F1, with 95% intervals"
    panel = forest(groups, axis, span, width, ("worse", "better"))
    title = f"Slot F1 before and after: {baseline} → {system}"
    return Plot("before-after", title, "", [titled_panel(title, panel)])


def main() -> None:
    """Write the plot for light and dark pages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("differences", type=Path, help="differences.csv of an eval")
    parser.add_argument("system", help="the system that is compared")
    parser.add_argument("out", help="where to: OUT-light.svg, OUT-narrow-light.svg, ...")
    arguments = parser.parse_args()
    for kind, width in WIDTHS.items():
        plot = picture(arguments.differences, arguments.system, width)
        for theme in THEMES:
            path = Path(f"{arguments.out}{kind}-{theme}.svg")
            path.write_text(plot.svg(theme), encoding="utf-8")


if __name__ == "__main__":
    main()
