"""The report of a choice by language, and how it is shown."""

from collections.abc import Mapping
from dataclasses import dataclass

from adaptermix.adapters.family import COLUMNS, Routes
from adaptermix.files.outputs import NotedReport, Report
from adaptermix.search.routes import Evidence
from adaptermix.tables import View, counted, noted, pairs, titled

EVIDENCE_FILE = "evidence.json"


@dataclass(frozen=True)
class RoutesReport(Report):
    """The chosen routes and the evidence for them.

    Attributes:
        out: The folder of the family.
        routes: The routes, as in ``routes.toml``.
        evidence: By language, every merge compared with the task adapter, best score first.
        weights: By merge, the weight of each adapter.
        engine: The engine that answered.
        decoded: Number of adapter-example pairs that were needed.
        reused: How many of the needed ones were in the cache.
        notes: Notes for the user.
    """

    out: str
    routes: Routes
    evidence: dict[str, list[Evidence]]
    weights: dict[str, dict[str, float]]
    engine: str
    decoded: int
    reused: int
    notes: list[str]

    @property
    def verdict(self) -> str:
        """Say which languages get a merge."""
        routes = self.routes
        merged = [lang for lang in routes.routes if routes.name_for(lang) != routes.default]
        others = [lang for lang in routes.routes if lang not in merged]
        parts = [
            f"a merge is used for {', '.join(merged)}" if merged else "no merge is used",
            f"{routes.default} alone for {', '.join(others)}" if others else "",
        ]
        return "; ".join(filter(None, parts))

    def view(self) -> View:
        """Return the human-readable view."""
        routes = self.routes
        title = f"{routes.task} dev: {titled(routes.metric or 'score')}, {self.engine} engine"
        remarks = [
            f"examples decoded: {self.decoded:,}; {self.reused:,} from the cache",
            COLUMNS,
            *noted(self.notes),
            f"adapters, routes and serve.sh for vLLM: {self.out}",
        ]
        return View([routes.table("routes", title), self.verdict], remarks)


@dataclass(frozen=True)
class RoutesPlan(NotedReport):
    """What a choice by language would do (dry run)."""

    candidates: list[str]
    examples: Mapping[str, int]
    longest_prompt: int
    prefer: str
    out: str

    def view(self) -> View:
        """Return the human-readable view."""
        rows = {
            "candidates": ", ".join(self.candidates),
            "prefer": self.prefer,
            "dev examples": counted(self.examples),
            "longest prompt": f"{self.longest_prompt:,} tokens",
            "would write": self.out,
        }
        return View([pairs(rows)])
