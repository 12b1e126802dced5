"""Sections about scores: whether the merge helped, where, and how reliable that is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from adaptermix.adapters.report import InspectReport
from adaptermix.evaluation.comparison import ALL, Comparison
from adaptermix.evaluation.report import (
    EvalReport,
    baseline_sentence,
    count_table,
    difference_table,
    glance_table,
    score_table,
    seed_tables,
)
from adaptermix.evaluation.verdict import better_and_worse, points_of
from adaptermix.plots.charts import Change, changes
from adaptermix.plots.intervals import Estimate, Groups, forest
from adaptermix.plots.plot import Panel, Plot, titled_panel
from adaptermix.plots.scales import around_zero, span_of
from adaptermix.reports.runs import Run
from adaptermix.reports.sections.roles import (
    controls_among,
    has_chosen_groups,
    is_known,
    is_trained,
    is_unscaled,
    label_of,
    language_groups,
    merge_among,
    named_in,
)
from adaptermix.reports.sections.section import Fact, Section
from adaptermix.tables import (
    RULE,
    Cell,
    Look,
    Row,
    Table,
    ends_shown,
    number_of,
    p_shown,
    scaled,
    shown,
    titled,
)

_WIDE, _NARROW, _PANEL = 640, 350, 264
_MANY_UNREADABLE = 0.05  # share of the answers
_TOO_MANY_UNREADABLE = 0.2  # also if the baseline has as many


@dataclass(frozen=True)
class Evaluated:
    """An evaluation with the roles of its systems and languages."""

    report: EvalReport
    inspected: InspectReport | None
    has_chosen_groups: bool = False

    @classmethod
    def of_run(cls, run: Run, inspected: InspectReport | None) -> "Evaluated":
        """Return a run's evaluation, with its names of adapters."""
        return cls(run.report, named_in(run.content, inspected), has_chosen_groups(run.content))

    @property
    def metric(self) -> str:
        """Name of the first metric."""
        return self.report.cells[0].score.name

    @property
    def unit(self) -> str:
        """The unit of differences."""
        return points_of(self.metric)

    @property
    def merge(self) -> str | None:
        """The system of interest (``merge_among``)."""
        compared = {c.system for c in self.report.comparisons}
        systems = [s for s in self.report.systems if s in compared]
        return merge_among(systems, self.report.reference, self.inspected)

    @property
    def groups(self) -> list[tuple[str, list[str]]]:
        """The languages in the user's groups, or else grouped by their role in training."""
        report, is_chosen = self.report, self.has_chosen_groups
        return language_groups(
            report.langs, self.merge, self.inspected, report.groups, is_chosen=is_chosen
        )

    @property
    def interval(self) -> str:
        """The name of the intervals."""
        return self.report.test.interval if self.report.test else "95% interval"

    def of(self, system: str | None) -> list[Comparison]:
        """Return the comparisons of a system."""
        return [c for c in self.report.comparisons if c.system == system]

    def over_all(self, system: str | None) -> Comparison | None:
        """Return a system's comparison over all languages."""
        return next((c for c in self.of(system) if c.over == ALL), None)

    def number(self, value: float, sign: str = "+") -> str:
        """Format a score or difference in the metric's usual notation."""
        return shown(self.metric, value, sign).replace("-", "\N{MINUS SIGN}")

    def bounds(self, c: Comparison) -> list[str]:
        """Format the ends of a comparison's interval."""
        ends = ends_shown(self.metric, c.low, c.high)
        return [end.replace("-", "\N{MINUS SIGN}") for end in ends]

    def ends(self, c: Comparison) -> str:
        """Format a comparison's interval."""
        return " to ".join(self.bounds(c))


def answer_section(run: Run, inspected: InspectReport | None) -> Section:
    """Return the first section: the answer in a sentence, the languages, and its reliability."""
    seen = Evaluated.of_run(run, inspected)
    merge = seen.merge
    name = "glance"
    glance = replace(glance_table(run.report, run.name), name=name)
    if merge is None or seen.over_all(merge) is None:
        only = ", ".join(run.report.systems)
        text = f"Only {only} was evaluated, so there is nothing to compare."
        return Section("answer", "Did the merge help?", [], [], [glance], answer=text)
    facts = _facts(seen, merge)
    return Section(
        "answer",
        f"Did “{merge}” help?",
        [_where(seen, merge), _caution(facts)],
        [_answer_plot(seen, merge)],
        [glance],
        answer=_sentence(seen, merge),
        facts=facts,
    )


def _sentence(seen: Evaluated, merge: str) -> str:
    """Return a sentence on whether the merge is better, and by how much."""
    c = seen.over_all(merge)
    if c is None:
        return ""
    langs = len(seen.report.langs)
    size = f"{seen.number(abs(c.difference), '')} {seen.unit}"
    amount = f"{size} {'higher' if c.difference > 0 else 'lower'} than"
    over = f"in {label_of(seen.report.langs[0])}"
    if langs > 1:
        over = f"on average over {langs} {seen.report.row_name}s"
    average = f"{over} ({seen.interval} {seen.ends(c)})"
    reference = seen.report.reference
    if c.is_sure and c.difference > 0:
        return f"Yes: {merge} scores {amount} {reference} {average}."
    if c.is_sure:
        return f"No, it hurts: {merge} scores {amount} {reference} {average}."
    if seen.number(abs(c.difference), "") == seen.number(0.0, ""):
        amount = "the same as"
    return f"No clear effect: {merge} scores {amount} {reference} {average}."


def _where(seen: Evaluated, merge: str) -> str:
    """Return sentences on the languages and groups in which the merge differs significantly."""
    mine, langs, row = seen.of(merge), seen.report.langs, seen.report.row_name
    single = better_and_worse(
        [(label_of(c.over), c) for c in mine if c.over in langs], f" of {len(langs)} {row}s"
    )
    means = better_and_worse(
        [
            (n, c)
            for n, group in seen.groups
            for c in mine
            if n and len(group) > 1 and _is_over(c, group)
        ],
        " groups",
    )
    first = f"Significantly {single}." if single else f"No single {row} differs significantly."
    return f"{first} Averages over groups: {means}." if means else first


def _caution(facts: Sequence[Fact]) -> str:
    """Return a sentence on what limits the answer; phones show the facts below the plot."""
    warned = [fact.brief for fact in facts if fact.look == "warn"]
    checked = [fact.brief for fact in facts if fact.look == "ok"]
    if warned:
        return f"Treat this with caution: {', '.join(warned)}."
    return f"Nothing calls for caution: {', '.join(checked)}."


def _facts(seen: Evaluated, merge: str) -> list[Fact]:
    report, c = seen.report, seen.over_all(merge)
    sizes = [report.cell(merge, lang).examples for lang in report.langs]
    least = f"{min(sizes):,} to " if min(sizes) < max(sizes) else ""
    each = f"{least}{number_of(max(sizes), 'example')}"
    data = f"{report.split} data, {each} per {report.row_name}"
    if report.split != "test":
        data += "; if the weights were chosen on the same data, the gain is overestimated"
    look: Look = "ok" if report.split == "test" else "warn"
    facts = [Fact("Data", f"{data[:1].upper()}{data[1:]}.", look, f"{report.split} data")]
    if c is not None:
        half = seen.number((c.high - c.low) / 2, "")
        text = f"The average is known to ±{half} {seen.unit}; smaller effects cannot be detected."
        if c.low == c.high:
            text = "Unknown: the scores are equal in every resample."
        facts.append(Fact("Precision", text))
    if report.test is None:
        text = "No significance test is recorded."
        facts.append(Fact("Test", text, "warn", "no significance test"))
    else:
        text = (
            f"{report.test.name}, {report.test.samples:,} resamples; single {report.row_name}s are "
            f"corrected for {number_of(len(report.langs), 'comparison')} (Holm). "
            "Training seeds are not resampled."
        )
        facts.append(Fact("Test", f"{text[0].upper()}{text[1:]}", "ok", "significance test"))
    return [*facts, _control(seen, merge), _unreadable(seen, merge)]


def _control(seen: Evaluated, merge: str) -> Fact:
    if is_trained(merge, seen.inspected):
        return Fact("Control", f"Not needed: {merge} is not a merge.", "ok", "not a merge")
    names = controls_among(seen.report.systems, seen.inspected)
    compared = [c for name in names if (c := seen.over_all(name))]
    if not compared and is_unscaled(merge, seen.report.reference, seen.inspected):
        text = f"Not needed: {merge} does not scale {seen.report.reference} (its weight is 1)."
        return Fact("Control", text, "ok", "task adapter not scaled")
    if not compared and not is_known(merge, seen.inspected):
        text = f"Unknown: {merge} is not one of the adapters in this report."
        return Fact("Control", text, "warn", "control unknown")
    if not compared:
        text = "None: the difference may come from scaling the task adapter alone. Also evaluate "
        text += "the scaled task adapter without the alignment adapter."
        return Fact("Control", text, "warn", "no control for scaling")
    parts = [f"{c.system} {seen.number(c.difference)} ({seen.ends(c)})" for c in compared]
    text = f"Task adapter scaled, with nothing merged in: {', '.join(parts)}."
    return Fact("Control", text, "ok", "control")


def _unreadable(seen: Evaluated, merge: str) -> Fact:
    shares = []
    for system in (seen.report.reference, merge):
        cells = [c for c in seen.report.cells if c.system == system]
        bad, total = sum(c.malformed for c in cells), sum(c.examples for c in cells)
        shares.append((system, bad / total if total else 0.0))
    text = ", ".join(f"{system} {share:.1%}" for system, share in shares)
    before, after = (share for _, share in shares)
    if after > max(_MANY_UNREADABLE, 2 * before) or max(before, after) > _TOO_MANY_UNREADABLE:
        return Fact("Unreadable answers", f"{text}.", "warn", "many unreadable answers")
    if max(before, after) > _MANY_UNREADABLE:
        return Fact("Unreadable answers", f"{text}.")
    return Fact("Unreadable answers", f"{text}.", "ok", "readable answers")


def _estimates(seen: Evaluated, system: str, *, long: bool) -> Groups:
    """Return the rows of a forest plot: the average, and languages by group with theirs.

    All systems use the order of the merge's differences, largest first.
    """
    found, report = seen.of(system), seen.report
    place = {c.over: -c.difference for c in seen.of(seen.merge)}
    groups = []
    over_all = seen.over_all(system)
    if over_all and len(report.langs) > 1:  # first, because a screen may not show the last
        every = f"all {len(report.langs)}" + (f" {report.row_name}s" if long else "")
        groups.append(("", [_estimate(seen, over_all, every)]))
    for name, langs in seen.groups:
        rows = sorted((c for c in found if c.over in langs), key=lambda c: place.get(c.over, 0.0))
        mean = next((c for c in found if len(langs) > 1 and _is_over(c, langs)), None)
        means = [_estimate(seen, mean, f"mean of {len(langs)}")] if mean else []
        labels = [label_of(c.over) if long else c.over for c in rows]
        bars = [_estimate(seen, c, label) for c, label in zip(rows, labels, strict=True)]
        heading = name if long else name.removesuffix(f" {report.row_name}s")
        groups.append((heading, [*bars, *means]))
    return groups


def _is_over(c: Comparison, langs: Sequence[str]) -> bool:
    return c.over != ALL and set(c.langs) == set(langs)


def _estimate(seen: Evaluated, c: Comparison, label: str) -> Estimate:
    says = f"{seen.number(c.difference)} [{', '.join(seen.bounds(c))}]"
    value, low, high = (scaled(seen.metric, end) for end in (c.difference, c.low, c.high))
    return Estimate(label, value, low, high, _look(c), says, is_mean=len(c.langs) > 1)


def _look(c: Comparison) -> str:
    return "unclear" if not c.is_sure else "better" if c.difference > 0 else "worse"


def _answer_plot(seen: Evaluated, merge: str) -> Plot:
    title, row = (
        f"{merge} \N{MINUS SIGN} {seen.report.reference}, {seen.unit}",
        seen.report.row_name,
    )
    drawn = []
    for width in (_WIDE, _NARROW):
        groups = _estimates(seen, merge, long=True)
        span = around_zero(end for _, rows in groups for r in rows for end in (r.low, r.high))
        drawn.append(forest(groups, title, span, width, ("worse", "better")))
    caption = (
        f"Lines and diamonds are {seen.interval}s. Filled marks differ significantly from zero "
        f"(p < 0.05{f', {row}s corrected by Holm' if seen.report.test else ''}); hollow ones do "
        f"not. {baseline_sentence(seen.report)}"
    )
    values = _answer_values(seen, merge)
    heading = f"{merge} against {seen.report.reference}, by {row}"
    subtitle = f"Difference in {seen.unit}."
    name = "answer-differences"
    return Plot(name, heading, caption, [drawn[0]], values, [drawn[1]], subtitle)


def _answer_values(seen: Evaluated, merge: str) -> Table:
    found = {c.over: c for c in seen.of(merge)}
    rows: list[Row] = []
    for name, langs in seen.groups:
        rows += [RULE] if rows else []
        rows += [_value_row(seen, found[lang], name) for lang in langs if lang in found]
    rows += [
        RULE,
        *(_value_row(seen, c, "") for o, c in found.items() if o not in seen.report.langs),
    ]
    reference = seen.report.reference
    columns = ["", "group", reference, merge, "difference", seen.interval, "p", "p, Holm"]
    title = f"{merge} against {reference}, {titled(seen.metric)}"
    return Table("answer-values", title, columns, rows, align="llrrrrrr")


def _value_row(seen: Evaluated, c: Comparison, group: str) -> Row:
    look: Look = "strong" if c.is_sure else ""
    return [
        c.over,
        group,
        Cell(seen.number(c.baseline_score, ""), c.baseline_score),
        Cell(seen.number(c.score, ""), c.score),
        Cell(seen.number(c.difference), c.difference, look),
        seen.ends(c),
        Cell(p_shown(c.p_value), c.p_value),
        "" if c.p_holm is None else Cell(p_shown(c.p_holm), c.p_holm),
    ]


def evaluation_section(name: str, run: Run, inspected: InspectReport | None) -> Section:
    """Return the section about all systems of an evaluation."""
    report: EvalReport = run.report
    seen = Evaluated.of_run(run, inspected)
    others = [other for other in report.cells[0].scores if other != seen.metric]
    tables = [replace(score_table(report, m), name=f"{name}-table-{m}") for m in others]
    plots = []
    if report.comparisons:
        table = replace(difference_table(report), name=f"{name}-difference-table")
        if len({c.system for c in report.comparisons}) > 1:
            plots.append(_difference_plot(seen, f"{name}-differences", table))
        else:
            tables.insert(0, table)
    plots.append(_score_plot(seen, f"{name}-languages", f"{name}-table"))
    tables += [replace(table, name=f"{name}-{table.name}") for table in seed_tables(report)]
    if counts := count_table(report):
        tables.append(replace(counts, name=f"{name}-counts"))
    signatures = dict.fromkeys(s.signature for cell in report.cells for s in cell.scores.values())
    texts = [f"{report.task}, {report.split} data, {report.engine} engine."]
    tests = [report.test.signature] if report.test else []
    notes, title = [*report.notes, *signatures, *tests, run.source], f"Scores: {run.name}"
    return Section(name, title, texts, plots, tables, notes, answer=_outcome(seen))


def _outcome(seen: Evaluated) -> str:
    """Return a sentence on which systems differ from the baseline on average."""
    systems: dict[str, list[str]] = {"better than": [], "worse than": []}
    for c in seen.report.comparisons:
        if c.over == ALL:
            look = {"better": "better than", "worse": "worse than"}.get(_look(c))
            systems.setdefault(look or "not significantly different from", []).append(c.system)
    parts = [
        f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} {what} {seen.report.reference}"
        for what, names in systems.items()
        if names
    ]
    langs = len(seen.report.langs)
    average = f"On average over {langs} {seen.report.row_name}s: " if langs > 1 else ""
    return f"{average}{'; '.join(parts)}." if parts else ""


def _difference_plot(seen: Evaluated, name: str, table: Table) -> Plot:
    """Plot every system's differences, in panels with a shared axis."""
    systems = list(dict.fromkeys(c.system for c in seen.report.comparisons))
    rows = {system: _estimates(seen, system, long=False) for system in systems}
    ends = [e for gs in rows.values() for _, group in gs for r in group for e in (r.low, r.high)]
    span, title = around_zero(ends), f"difference in {seen.unit}"
    panels = [
        titled_panel(system, forest(groups, title, span, _PANEL, ("worse", "better")))
        for system, groups in rows.items()
    ]
    caption = f"{baseline_sentence(seen.report)} Lines and diamonds are {seen.interval}s."
    subtitle = f"Difference from {seen.report.reference} in {seen.unit}."
    heading = "Every system against the baseline"
    return Plot(name, heading, caption, panels, table, subtitle=subtitle)


def _score_plot(seen: Evaluated, name: str, table: str) -> Plot:
    """Plot every system's scores and the baseline's, in panels with a shared axis."""
    report, reference = seen.report, seen.report.reference
    values = {(c.system, c.lang): scaled(seen.metric, c.score.value) for c in report.cells}
    looks = {(c.system, c.over): _look(c) for c in report.comparisons}
    span = span_of(values.values())
    order = [lang for _, langs in seen.groups for lang in langs]
    panels: list[Panel] = []
    for system in [s for s in report.systems if s != reference] or [reference]:
        rows = [
            Change(
                lang,
                values[reference, lang],
                values[system, lang],
                looks.get((system, lang), "unclear"),
                f"{values[reference, lang]:.4g} → {values[system, lang]:.4g}",
            )
            for lang in order
        ]
        panels.append(titled_panel(system, changes(rows, titled(seen.metric), span)))
    caption = (
        f"From {reference} (hollow) to the system (filled); grey: no clear difference. "
        f"{baseline_sentence(report)}"
    )
    whole = replace(score_table(report), name=table)
    heading, subtitle = f"Scores by {report.row_name}", f"{titled(seen.metric)}, before and after."
    return Plot(name, heading, caption, panels, whole, subtitle=subtitle)
