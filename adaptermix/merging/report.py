"""The report of a merge, and how it is shown."""

from dataclasses import dataclass, field
from typing import Any

from adaptermix.files.outputs import Report
from adaptermix.tables import Table, View, noted, number_of


@dataclass(frozen=True)
class MergeSource:
    """One source adapter of a merge.

    Attributes:
        path: Path of the adapter.
        blake3: BLAKE3 hash of its tensor file.
        weight: Its weight in modules that no rule of a weights file matches.
        rank: Rank in its config.
        modules: Number of modules it updates.
        inactive: Number of result modules where it is absent or its B is zero.
    """

    path: str
    blake3: str
    weight: float
    rank: int
    modules: int
    inactive: int


@dataclass(frozen=True)
class MergeReport(Report):
    """The sources and result of a merge, and its deviation from the exact weighted sum.

    Attributes:
        out: Path of the output.
        method: Name of the method.
        sources: The adapters, in order.
        weighting: Weights, rules included.
        rank: Largest rank of the result.
        modules: Number of modules that the result updates.
        relative_error: Frobenius norm of the difference to the exact weighted sum of delta
            weights, over all modules, relative to that sum's norm.
        cross_term_energy: Squared norm of the cross terms B_i A_j relative to the exact sum's.
        inactive: ``keep`` or ``average``.
        written: False for a dry run.
        notes: Inputs that look like mistakes.
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
        """Show the sources, weights and result of a merge."""
        columns = ["adapter", "weight", "rank", "modules"]
        rows = [[s.path, f"{s.weight:.6g}", str(s.rank), str(s.modules)] for s in self.sources]
        line = (
            f"{self.method} merge of rank {self.rank} in {number_of(self.modules, 'module')}: "
            f"{'' if self.written else 'would write '}{self.out}"
        )
        remarks = noted(self.notes)
        if rules := self.weighting.get("rules"):
            remarks.append(
                f"modules that match a rule have other weights ({number_of(len(rules), 'rule')} in "
                "the weights file)"
            )
        effect = (
            "the other adapters keep full strength there"
            if self.inactive == "keep"
            else "the other adapters keep their weights there (--inactive keep raises the weights)"
        )
        remarks += [
            f"{source.path} has no effect in {source.inactive} of {self.modules} modules; {effect}"
            for source in self.sources
            if source.inactive and (source.weight or rules)
        ]
        if self.relative_error:
            error = f"{100 * self.relative_error:.2f}%"
            remarks.append(f"differs from the exact weighted sum by {error} of its norm")
        if self.cross_term_energy:
            remarks.append(
                f"the cross terms have {self.cross_term_energy:.2%} of the energy of the exact sum"
            )
        return View([Table("sources", "", columns, rows), line], remarks)
