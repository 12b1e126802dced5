"""What a merge returns, and how it looks."""

from dataclasses import dataclass, field
from typing import Any

from adaptermix.files.outputs import Report
from adaptermix.tables import Table, View, noted


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


@dataclass(frozen=True)
class MergeSource:
    """One adapter that went into a merge.

    Attributes:
        path: Where it was.
        blake3: Hash of its tensors' file.
        weight: Its weight where no rule of a weights file says otherwise.
        rank: Rank in its config.
        modules: Number of modules it updates.
        inactive: Modules of the result in which it does nothing: absent, or B is zero.
    """

    path: str
    blake3: str
    weight: float
    rank: int
    modules: int
    inactive: int


@dataclass(frozen=True)
class MergeReport(Report):
    """What was merged into what, and what the method made of the exact weighted sum.

    Attributes:
        out: The output.
        method: Name of the method.
        sources: The adapters, in order.
        weighting: Weights, rules included.
        rank: Largest rank of the result.
        modules: Number of modules that it updates.
        relative_error: Frobenius norm of the difference to the exact weighted sum of delta
            weights, over all modules, relative to that sum's norm.
        cross_term_energy: Squared norm of the cross terms B_i A_j relative to that of the sum.
        inactive: ``keep`` or ``average``.
        written: False for a dry run.
        notes: What looks like a slip.
    """

    out: str
    method: str
    sources: list[MergeSource]
    weighting: dict[str, Any]
    rank: int
    modules: int
    relative_error: float
    cross_term_energy: float
    inactive: str
    written: bool
    notes: list[str] = field(default_factory=list)

    def view(self) -> View:
        """Return the human-readable view."""
        return merge_view(self)
