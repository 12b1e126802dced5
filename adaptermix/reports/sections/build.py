"""Build the sections of a report in order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from adaptermix.adapters.inspection import inspect
from adaptermix.adapters.report import InspectReport, adapter_name, provenance_table
from adaptermix.adapters.systems import BASE
from adaptermix.evaluation.report import glance_table
from adaptermix.plots import colors_of
from adaptermix.reports.runs import Run, Runs
from adaptermix.reports.sections.adapters import adapters_section, recipe_section
from adaptermix.reports.sections.families import family_section
from adaptermix.reports.sections.retrieval import retrieval_section
from adaptermix.reports.sections.scores import evaluation_section
from adaptermix.reports.sections.search import search_section
from adaptermix.reports.sections.section import Section
from adaptermix.settings.reports import InspectSettings


def sections_of(runs: Runs) -> Iterator[Section]:
    """Yield the sections of a report: a summary, every run, and the adapters.

    Raises:
        ArtifactError: A damaged adapter, or adapters whose shapes differ.
    """
    inspected = inspect(runs.adapters, InspectSettings()) if runs.adapters else None
    names = [n for run in (*runs.evaluations, *runs.retrievals) for n in run.report.systems]
    names += [adapter_name(adapter.path) for adapter in inspected.adapters] if inspected else []
    baseline = runs.evaluations[0].report.reference if runs.evaluations else BASE
    colors = colors_of(list(dict.fromkeys([baseline, BASE, *names])))
    yield _summary(runs, inspected)
    parts: tuple[tuple[str, Sequence[Run], Callable[..., Section]], ...] = (
        ("scores", runs.evaluations, evaluation_section),
        ("search", runs.searches, search_section),
        ("retrieval", runs.retrievals, partial(retrieval_section, inspected=inspected)),
    )
    for kind, found, section in parts:
        for number, run in enumerate(found, start=1):
            yield section(kind if len(found) == 1 else f"{kind}-{number}", run, colors)
    for number, path in enumerate(runs.families, start=1):
        yield family_section("routes" if len(runs.families) == 1 else f"routes-{number}", path)
    if inspected:
        yield adapters_section("adapters", inspected, colors)


def _summary(runs: Runs, inspected: InspectReport | None) -> Section:
    tables = []
    if inspected:
        tables.append(provenance_table(inspected))
    for number, run in enumerate(runs.evaluations, start=1):
        name = "glance" if len(runs.evaluations) == 1 else f"glance-{number}"
        tables.append(replace(glance_table(run.report, run.name), name=name))
    texts = [recipe_section(adapter) for adapter in inspected.adapters] if inspected else []
    return Section("summary", "Summary", [text for text in texts if text], [], tables)
