"""Answers of candidates of known skill, without a model."""

import random
from dataclasses import dataclass, field
from pathlib import Path

from adaptermix.generation.engine import Generated
from adaptermix.generation.prompts import PromptedExample
from adaptermix.merging.weights import Weighting
from adaptermix.search.asking import DevPrompts
from adaptermix.search.candidates import Candidate
from adaptermix.search.halving import SuccessiveHalving
from adaptermix.tasks.massive import Massive, SlotExample


@dataclass
class SkilledGenerator:
    """Answers right as often as an adapter's skill says; the same every time it is asked."""

    skill: dict[str, float]
    names: dict[Path, str] = field(default_factory=dict)
    asked: list[tuple[str, int]] = field(default_factory=list)

    def decode(self, requests, on_progress):
        answers = []
        for request in requests:
            number = request.prompt_ids[0]
            self.asked.append((request.adapter.name, number))
            luck = random.Random(number).random()  # hard examples are hard for all
            is_right = luck < self.skill[request.adapter.name]
            answers.append(Generated(f"thing: {number}" if is_right else "None", False))
        return answers


WEIGHTS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.0, 1.0)


def make_halving(monkeypatch, tmp_path, skill, examples=200, weights=WEIGHTS):
    monkeypatch.setattr("adaptermix.search.halving.stage_merge", lambda plan, folder: folder / plan)
    items = {
        lang: [
            PromptedExample(
                lang, SlotExample(str(n), lang, f"take {n}", f"take [thing : {n}]"), [n], False
            )
            for n in range(at * examples, (at + 1) * examples)
        ]
        for at, lang in enumerate(("en", "cy"))
    }
    names = {Weighting((w, 1 - w)): f"{w:g}" for w in weights}
    generator = SkilledGenerator(skill)
    asked = DevPrompts(None, Massive(), [], None, generator)
    halving = SuccessiveHalving(names.__getitem__, asked, items, tmp_path, lambda p: None)
    candidates = [Candidate(name, weighting) for weighting, name in names.items() if name in skill]
    return halving, generator, candidates


SKILL = {"0.1": 0.2, "0.3": 0.4, "0.5": 0.5, "0.7": 0.9, "0.9": 0.7, "0": 0.1, "1": 0.6}
