"""Build all sections of a report, in order."""

from collections.abc import Callable, Iterator
from dataclasses import replace

from adaptermix.adapters.report import InspectReport
from adaptermix.evaluation.report import glance_table
from adaptermix.reports.runs import Run, Runs
from adaptermix.reports.sections.adapters import adapters_section
from adaptermix.reports.sections.families import family_section
from adaptermix.reports.sections.retrieval import analyzed, retrieval_section, sentence
from adaptermix.reports.sections.roles import with_own_names
from adaptermix.reports.sections.scores import Evaluated, answer_section, evaluation_section
from adaptermix.reports.sections.search import search_section
from adaptermix.reports.sections.section import Fact, Section


def sections_of(runs: Runs, inspected: InspectReport | None) -> Iterator[Section]:
    """Yield the sections of a report: the answer, every run, and the adapters."""
    inspected = inspected and with_own_names(inspected)
    baseline = runs.evaluations[0].report.reference if runs.evaluations else None
    if runs.evaluations:
        yield _answer(runs, inspected)
    yield from _each("scores", runs.evaluations, lambda n, r: evaluation_section(n, r, inspected))
    yield from _each("search", runs.searches, search_section)
    yield from _each(
        "retrieval", runs.retrievals, lambda n, r: retrieval_section(n, r, inspected, baseline)
    )
    for number, path in enumerate(runs.families, start=1):
        yield family_section("routes" if len(runs.families) == 1 else f"routes-{number}", path)
    if inspected:
        yield adapters_section("adapters", inspected)


def _each(kind: str, runs: list[Run], section: Callable[[str, Run], Section]) -> Iterator[Section]:
    for number, run in enumerate(runs, start=1):
        yield section(kind if len(runs) == 1 else f"{kind}-{number}", run)


def _answer(runs: Runs, inspected: InspectReport | None) -> Section:
    """Return the answer of the first evaluation, with facts from searches and analyses.

    What is one of several runs is named.
    """
    section = answer_section(runs.evaluations[0], inspected)
    baseline = runs.evaluations[0].report.reference
    merge = Evaluated.of_run(runs.evaluations[0], inspected).merge
    facts = list(section.facts)
    for run in runs.retrievals:
        seen = analyzed("", run, inspected, baseline)
        if text := sentence(seen):
            missing = f" {merge} was not analyzed." if merge not in seen.report.systems else ""
            facts.append(Fact(_topic("Alignment", run, runs.retrievals), text + missing))
    facts += [
        Fact(_topic("Weight search", run, runs.searches), f"{run.report.verdict}.")
        for run in runs.searches
    ]
    tables = list(section.tables)
    title = _topic(section.title, runs.evaluations[0], runs.evaluations)
    if len(runs.evaluations) > 1:
        tables = [
            replace(glance_table(run.report, run.name), name=f"glance-{number}")
            for number, run in enumerate(runs.evaluations, start=1)
        ]
    return replace(section, title=title, facts=facts, tables=tables)


def _topic(name: str, run: Run, runs: list[Run]) -> str:
    return f"{run.name}: {name}" if len(runs) > 1 else name
