"""Families: searched with adapters of known effect, and as they are written."""

import json
import random

from adaptermix.adapters.adapter import adapter_hash, read_adapter
from adaptermix.generation.engine import Generated
from adaptermix.search.by_language import search_by_language
from helpers.adapters import peft_adapter
from helpers.search import settings_for

LOCALES = {"en": "en-US", "cy": "cy-GB", "sw": "sw-KE"}


def write_dev_data(folder, examples=200, langs=tuple(LOCALES), split="dev"):
    """Write rows of MASSIVE whose answer is ``thing: NUMBER``; the first ten are in ``test``."""
    (folder / "massive").mkdir(parents=True)
    for lang in langs:
        rows = [
            {
                "id": str(number),
                "locale": LOCALES[lang],
                "partition": "test" if number < 10 else split,
                "utt": f"{lang} {number}",
                "annot_utt": f"{lang} [thing : {number}]",
            }
            for number in range(examples + 10)
        ]
        path = folder / "massive" / f"{LOCALES[lang]}.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return folder


def write_adapters(model_dir, folder, names=("task", "align")):
    paths = [folder / name for name in names]
    for seed, path in enumerate(paths):
        peft_adapter(model_dir, path, seed=seed)
    return paths


class KnownEffects:
    """An engine in which adapters answer right as often as it is told, by language.

    Hard examples are hard for all, so adapters of equal skill give the same answers.
    """

    def __init__(self, tokenizer, task, skill):
        """Take the task adapter, and the skill of ``task`` and ``merge`` by language."""
        self.tokenizer = tokenizer
        self.task = adapter_hash(read_adapter(task))[:16]
        self.skill = skill
        self.asked = []

    def generate(self, requests, on_answers):
        answers = {}
        for at, request in enumerate(requests):
            who = "task" if request.adapter.name == self.task else "merge"
            self.asked.append((who, request.group))
            text = self.tokenizer.decode(request.prompt_ids)
            number = text.partition(f"{request.group} ")[2].partition("<")[0]
            is_right = random.Random(f"{request.group} {number}").random() < (
                self.skill[who].get(request.group, 0.5)
            )
            answers[at] = Generated(f"thing: {number}" if is_right else "None", False, 1)
        on_answers(answers)


def use_known_effects(monkeypatch, task, skill):
    """Put such an engine in the place of the real one; return a list of those started."""
    started = []

    def make(engine, settings, folder, tokenizer, *rest):
        started.append(KnownEffects(tokenizer, task, skill))
        return started[-1]

    monkeypatch.setattr("adaptermix.generation.cached.make_generator", make)
    return started


# A merge that gains in Welsh alone.
WELSH = {"task": {"cy": 0.4}, "merge": {"cy": 0.7}}


def family_settings(model_dir, data, out, **changes):
    usual = {"search": "0.7,0.9", "langs": ("en", "cy", "sw"), "limit": None}
    return settings_for(model_dir, data, out, **usual | {"per_language": True} | changes)


def welsh_family(monkeypatch, model_dir, folder):
    """Search a family in which Welsh takes a merge; return the adapters, the data and its path."""
    data = write_dev_data(folder / "data")
    paths = write_adapters(model_dir, folder)
    with monkeypatch.context() as patched:
        use_known_effects(patched, paths[0], WELSH)
        search_by_language(paths, family_settings(model_dir, data, folder / "family"))
    return paths, data, folder / "family"


def hand_written(model_dir, folder, text, names=("task", "align")):
    """Write adapters, and routes as they are given."""
    folder.mkdir(parents=True)
    write_adapters(model_dir, folder, names)
    (folder / "routes.toml").write_text(text, encoding="utf-8")
    return folder
