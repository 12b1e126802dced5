"""Successive halving of candidates on dev examples: who has seen how many, and who is better.

A round shows all candidates a part of the dev examples, keeps the best and the best adapter alone,
and doubles the examples, until those that are left have seen all (successive halving on paired
scores). Candidates are compared on the examples that both have seen, by paired bootstrap.
"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adaptermix.adapters.adapter import adapter_hash, read_adapter
from adaptermix.adapters.writing import stream_adapter
from adaptermix.generation.cached import CachedGenerator
from adaptermix.generation.engine import Request
from adaptermix.generation.prompts import PromptedExample
from adaptermix.merging.plan import MergePlan, Tally
from adaptermix.merging.weights import Weighting
from adaptermix.progress import OnProgress
from adaptermix.search.candidates import Candidate
from adaptermix.tasks.metrics.significance import (
    Difference,
    Interval,
    Statistics,
    interval,
    macro_score,
    paired_difference,
    resample_counts,
    resampled_scores,
)
from adaptermix.tasks.task import Task

FINALISTS = 2


@dataclass
class Entry:
    """A candidate that takes part.

    Attributes:
        candidate: The merge.
        adapter: Where it lies.
        statistics: For every language, the metric's row of each example it has answered.
        dropped: The round after which it was left out.
    """

    candidate: Candidate
    adapter: Path
    statistics: list[Statistics]
    dropped: int | None = None

    @property
    def answered(self) -> int:
        """How many examples it has answered; only equal numbers can be ranked."""
        return sum(len(rows) for rows in self.statistics)


class SuccessiveHalving:
    """Scores candidates on dev examples, as few as are asked for.

    Attributes:
        needed: Pairs of candidate and example that were asked for.
        notes: What the user should know besides.
    """

    def __init__(
        self,
        plan: Callable[[Weighting], MergePlan],
        generator: CachedGenerator,
        task: Task,
        items: Mapping[str, Sequence[PromptedExample]],
        scratch: Path,
        on_progress: OnProgress,
    ) -> None:
        """Gather what scoring needs; nothing is decoded yet.

        Args:
            plan: Plans the merge of some weights.
            generator: Answers prompts.
            task: Reads and scores answers.
            items: Dev examples by language, in the order they are to be used.
            scratch: Folder for the candidates' adapters.
            on_progress: Hears of decoding.
        """
        self.plan = plan
        self.generator = generator
        self.task = task
        self.items = items
        self.scratch = scratch
        self.on_progress = on_progress
        self.needed = 0
        self.notes: list[str] = []
        self.entries: dict[str, Entry] = {}

    @property
    def examples(self) -> int:
        """Number of dev examples."""
        return sum(len(items) for items in self.items.values())

    def enter(self, candidate: Candidate, adapter: Path | None = None) -> Entry:
        """Merge a candidate, unless it is there already.

        Args:
            candidate: The candidate.
            adapter: Where it lies, if it need not be merged.
        """
        if candidate.name not in self.entries:
            adapter = adapter or stage_merge(self.plan(candidate.weighting), self.scratch)
            self.generator.names[adapter] = f"candidate {candidate.name}"
            nothing = [self.task.statistics([]) for _ in self.items]
            self.entries[candidate.name] = Entry(candidate, adapter, nothing)
        return self.entries[candidate.name]

    def show(self, entries: Sequence[Entry], share: float) -> None:
        """Let candidates answer, together, what they have not seen of a share of each language."""
        requests, parts = [], []
        for entry in entries:
            for at, (lang, items) in enumerate(self.items.items()):
                wanted = max(1, math.ceil(share * len(items) - 1e-9))
                unseen = items[len(entry.statistics[at]) : wanted]
                requests += [Request(item.prompt_ids, entry.adapter, group=lang) for item in unseen]
                parts.append((entry, at, unseen))
        self.needed += len(requests)
        answers = iter(self.generator.decode(requests, self.on_progress))
        for entry, at, unseen in parts:
            outcomes = [self.task.outcome(item.example, next(answers).text) for item in unseen]
            rows = self.task.statistics(outcomes)
            entry.statistics[at] = np.concatenate([entry.statistics[at], rows])

    def score(self, entry: Entry) -> float:
        """Return the macro average over languages, on all the candidate has seen."""
        return macro_score(entry.statistics, self.task.value)

    def score_interval(self, entry: Entry) -> Interval:
        """Return the score with its bootstrap interval."""
        statistics = entry.statistics
        counts = resample_counts([len(rows) for rows in statistics])
        drawn = resampled_scores(statistics, self.task.value, counts)
        return interval(macro_score(statistics, self.task.value), drawn)

    def compare(self, entry: Entry, other: Entry) -> Difference:
        """Compare two candidates on the examples that both have seen."""
        both = list(zip(entry.statistics, other.statistics, strict=True))
        mine = [rows[: len(others)] for rows, others in both]
        theirs = [others[: len(rows)] for rows, others in both]
        return paired_difference(mine, theirs, self.task.value)

    def run(self, candidates: Sequence[Candidate], *, exhaustive: bool) -> list[Entry]:
        """Return the candidates that have seen all examples, best first."""
        running = [self.enter(candidate) for candidate in candidates]
        rounds = 1 if exhaustive else 1 + max(0, math.ceil(math.log2(len(running) / FINALISTS)))
        for number in range(1, rounds + 1):
            self.show(running, 2.0 ** (number - rounds))
            running.sort(key=lambda entry: (-self.score(entry), entry.candidate.complexity))
            if number < rounds:
                left = math.ceil(len(candidates) / 2**number)
                running = self._narrow(running, max(FINALISTS, left), number)
        for entry in running:
            entry.dropped = None
        return running

    def _narrow(self, ranked: Sequence[Entry], count: int, number: int) -> list[Entry]:
        """Keep the best, and the best adapter alone, which the winner is compared with."""
        kept = list(ranked[:count])
        alone = next((entry for entry in ranked if entry.candidate.is_control), None)
        if alone and alone not in kept:
            kept.append(alone)
        for entry in ranked:
            if entry not in kept:
                entry.dropped = number
        return kept


def stage_merge(plan: MergePlan, folder: Path) -> Path:
    """Write a planned merge as a PEFT directory named by its content."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        path = Path(work) / "candidate"
        updates = plan.updates(Tally())
        stream_adapter(path, plan.specs, updates, plan.saved(), plan.config(), dict)
        staged = folder / adapter_hash(read_adapter(path))[:16]
        if not staged.exists():
            path.rename(staged)
    return staged


def choose(
    halving: SuccessiveHalving, finalists: Sequence[Entry], prefer: str
) -> tuple[Entry, list[Entry], str]:
    """Choose among candidates that have seen all examples.

    Returns:
        The winner; the candidates that the best score cannot be told apart from; and a sentence.
    """
    ranked = sorted(finalists, key=lambda entry: -halving.score(entry))
    best, others = ranked[0], ranked[1:]
    tied = [e for e in others if not halving.compare(best, e).interval.excludes_zero]
    winner = best
    if prefer == "simpler":
        winner = min([best, *tied], key=lambda entry: entry.candidate.complexity)
    names = ", ".join(entry.candidate.name for entry in tied)
    if not tied:
        sentence = f"{best.candidate.name} is better than every other finalist"
    elif winner is best:
        sentence = f"{best.candidate.name} is not distinguishable from {names}"
    else:
        sentence = (
            f"{best.candidate.name} has the best score, but is not distinguishable from {names}: "
            f"{winner.candidate.name}, the simplest of them, is taken (--prefer best takes "
            f"{best.candidate.name})"
        )
    return winner, tied, sentence
