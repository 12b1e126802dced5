"""Merges as tables."""

from typing import TYPE_CHECKING

from adaptermix.tables import Table, View, noted

if TYPE_CHECKING:
    from adaptermix.merging.merge import MergeReport


def merge_view(report: "MergeReport") -> View:
    """Show what was merged from what."""
    columns = ["adapter", "weight", "rank", "modules"]
    rows = [[s.path, f"{s.weight:.6g}", str(s.rank), str(s.modules)] for s in report.sources]
    line = (
        f"{report.method} merge of rank {report.rank} in {report.modules} modules: "
        f"{'' if report.written else 'would write '}{report.out}"
    )
    remarks = noted(report.notes)
    if rules := report.weighting.get("rules"):
        remarks.append(
            f"modules that a rule matches have other weights ({len(rules)} in the weights file)"
        )
    effect = (
        "the others keep full strength"
        if report.inactive == "keep"
        else "the others have their weights all the same (--inactive keep changes that)"
    )
    remarks += [
        f"{source.path} does nothing in {source.inactive} of {report.modules} modules; there "
        f"{effect}"
        for source in report.sources
        if source.inactive
    ]
    if report.relative_error:
        error = f"{100 * report.relative_error:.2f}%"
        remarks.append(f"differs from the exact weighted sum by {error} of its norm")
    if report.cross_term_energy:
        remarks.append(
            f"cross terms carry {report.cross_term_energy:.2%} of the exact sum's energy"
        )
    return View([Table("sources", "", columns, rows), line], remarks)
