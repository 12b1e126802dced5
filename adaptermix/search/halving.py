"""Successive halving of candidates on dev examples.

Each round decodes a share of the dev examples with all remaining candidates, keeps the best ones
and the best single adapter, and doubles the share, until the remaining candidates have answered
all examples. Candidates are compared by paired bootstrap on the examples that both have answered.
"""

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from adaptermix.adapters.adapter import adapter_hash, read_adapter
from adaptermix.adapters.writing import stream_adapter
from adaptermix.generation.prompts import PromptedExample
from adaptermix.merging.plan import MergePlan, Tally
from adaptermix.merging.weights import Weighting
from adaptermix.progress import OnProgress
from adaptermix.search.asking import Asked
from adaptermix.search.candidates import Candidate
from adaptermix.tasks.metrics.metric import prepare
from adaptermix.tasks.metrics.normalization import count_denormalized, note_on_denormalized
from adaptermix.tasks.metrics.significance import (
    DIGITS,
    Difference,
    Interval,
    Statistics,
    interval,
    macro_score,
    paired_difference,
    resample_counts,
    resampled_scores,
)

FINALISTS = 2


@dataclass
class Entry:
    """A candidate in the race.

    Attributes:
        candidate: The merge.
        adapter: Path of its adapter.
        statistics: By language, the metric's sufficient statistics, one row per answered example.
        dropped: The round after which it was dropped; 0 for a trial that did not join the race.
    """

    candidate: Candidate
    adapter: Path
    statistics: list[Statistics]
    dropped: int | None = None

    @property
    def answered(self) -> int:
        """Number of examples it has answered. Only candidates with equal numbers can be ranked."""
        return sum(len(rows) for rows in self.statistics)


class SuccessiveHalving:
    """Scores candidates on dev examples, and decodes only those that are needed.

    Attributes:
        needed: Number of candidate-example pairs that were requested.
        denormalized: Number of answers with values that are wrong only by Unicode normalization.
        notes: Notes for the user.
    """

    def __init__(
        self,
        plan: Callable[[Weighting], MergePlan],
        asked: Asked,
        items: Mapping[str, Sequence[PromptedExample]],
        scratch: Path,
        on_progress: OnProgress,
    ) -> None:
        """Store what scoring needs; nothing is decoded yet.

        Args:
            plan: Plans the merge for given weights.
            asked: Answers dev examples and scores the answers.
            items: Dev examples by language, in the order of use.
            scratch: Temporary folder for the candidates' adapters.
            on_progress: Called with the progress of decoding.
        """
        self.plan = plan
        self.asked = asked
        self.task = asked.task
        self.items = items
        self.scratch = scratch
        self.on_progress = on_progress
        self.needed = 0
        self.denormalized = 0
        self.notes: list[str] = []
        self.entries: dict[str, Entry] = {}

    @property
    def examples(self) -> int:
        """Number of dev examples."""
        return sum(len(items) for items in self.items.values())

    @property
    def notes_on_answers(self) -> list[str]:
        """Notes for the user on the answers."""
        if not self.denormalized:
            return []
        return [note_on_denormalized(self.denormalized, " of the candidates")]

    def enter(self, candidate: Candidate, adapter: Path | None = None) -> Entry:
        """Merge a candidate and add it to the race, unless it is already in it.

        Args:
            candidate: The candidate.
            adapter: Path of its adapter, if it exists already.
        """
        if candidate.name not in self.entries:
            adapter = adapter or stage_merge(self.plan(candidate.weighting), self.scratch)
            self.asked.names[adapter] = f"candidate {candidate.name}"
            nothing = [self.task.statistics([]) for _ in self.items]
            self.entries[candidate.name] = Entry(candidate, adapter, nothing)
        return self.entries[candidate.name]

    def show(self, entries: Sequence[Entry], share: float) -> None:
        """Decode a share of each language with all candidates, in one batch; skip known answers."""
        parts = []
        for entry in entries:
            for at, items in enumerate(self.items.values()):
                wanted = max(1, math.ceil(share * len(items) - 1e-9))
                parts.append((entry, at, items[len(entry.statistics[at]) : wanted]))
        self.needed += sum(len(unseen) for *_, unseen in parts)
        found = self.asked.outcomes(
            [(entry.adapter, unseen) for entry, _, unseen in parts], self.on_progress
        )
        prepare(self.task.metrics[0], found)
        for (entry, at, _), outcomes in zip(parts, found, strict=True):
            self.denormalized += count_denormalized(outcomes)
            rows = self.task.statistics(outcomes)
            entry.statistics[at] = np.concatenate([entry.statistics[at], rows])

    def score(self, entry: Entry) -> float:
        """Return the macro average over languages, on all examples the candidate has answered.

        It is rounded, because averages of the same numbers in another order differ by 1e-17, and
        of equal scores the simpler candidate is preferred.
        """
        return round(macro_score(entry.statistics, self.task.value), DIGITS)

    def score_interval(self, entry: Entry) -> Interval:
        """Return the score with its bootstrap interval."""
        statistics = entry.statistics
        counts = resample_counts([len(rows) for rows in statistics])
        drawn = resampled_scores(statistics, self.task.value, counts)
        return interval(macro_score(statistics, self.task.value), drawn)

    def compare(self, entry: Entry, other: Entry) -> Difference:
        """Compare two candidates on the examples that both have answered."""
        both = list(zip(entry.statistics, other.statistics, strict=True))
        mine = [rows[: len(others)] for rows, others in both]
        theirs = [others[: len(rows)] for rows, others in both]
        return paired_difference(mine, theirs, self.task.value)

    def run(self, candidates: Sequence[Candidate], *, exhaustive: bool) -> list[Entry]:
        """Return the candidates that have answered all examples, best first.

        A candidate that is listed twice runs once. If all have answered a share of the examples
        before, the first round uses at least that share: smaller ones would rank them by the same
        answers again.
        """
        unique = {candidate.name: candidate for candidate in candidates}
        for name, entry in self.entries.items():
            if name not in unique and entry.dropped is None:
                entry.dropped = 0
        running = [self.enter(candidate) for candidate in unique.values()]
        rounds = 1 if exhaustive else 1 + max(0, math.ceil(math.log2(len(running) / FINALISTS)))
        if seen := min(entry.answered for entry in running) / self.examples:
            rounds = min(rounds, 1 + math.floor(math.log2(1 / seen)))
        for number in range(1, rounds + 1):
            self.show(running, 2.0 ** (number - rounds))
            running.sort(key=lambda entry: (-self.score(entry), entry.candidate.complexity))
            if number < rounds:
                left = math.ceil(len(unique) / 2**number)
                running = self._narrow(running, max(FINALISTS, left), number)
        for entry in running:
            entry.dropped = None
        return running

    def _narrow(self, ranked: Sequence[Entry], count: int, number: int) -> list[Entry]:
        """Keep the best candidates, and the best single adapter to compare the winner with."""
        kept = list(ranked[:count])
        alone = next((entry for entry in ranked if entry.candidate.is_control), None)
        if alone and alone not in kept:
            kept.append(alone)
        for entry in ranked:
            if entry not in kept:
                entry.dropped = number
        return kept


def stage_merge(plan: MergePlan, folder: Path) -> Path:
    """Write a planned merge as a PEFT directory whose name is a hash of its content."""
    with tempfile.TemporaryDirectory(dir=folder) as work:
        path = Path(work) / "candidate"
        stream_adapter(path, plan.result(Tally()), plan.config(), dict)
        staged = folder / adapter_hash(read_adapter(path))[:16]
        if not staged.exists():
            path.rename(staged)
    return staged


def choose(
    halving: SuccessiveHalving, finalists: Sequence[Entry], prefer: str
) -> tuple[Entry, list[Entry], str]:
    """Choose among the candidates that have answered all examples.

    Returns:
        The winner, the candidates whose scores do not differ significantly from the best, and
        the verdict in words.
    """
    ranked = sorted(finalists, key=lambda entry: -halving.score(entry))
    best, others = ranked[0], ranked[1:]
    tied = [e for e in others if not halving.compare(best, e).interval.excludes_zero]
    winner = best
    if prefer == "simpler":
        winner = min([best, *tied], key=lambda entry: entry.candidate.complexity)
    names = ", ".join(entry.candidate.name for entry in tied)
    if not tied:
        sentence = f"{best.candidate.name} is better than all others that answered all examples"
    elif winner is best:
        sentence = (
            f"{best.candidate.name} has the best score and is chosen, but it is not significantly "
            f"different from {names}"
        )
    else:
        sentence = (
            f"{best.candidate.name} has the best score, but is not significantly different from "
            f"{names}: {winner.candidate.name}, the simplest of them, is chosen (--prefer best "
            f"chooses {best.candidate.name})"
        )
    return winner, tied, sentence
