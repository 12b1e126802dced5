"""Records as eval and retrieval write them, with made-up numbers, for tests of reports."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from itertools import count, permutations, product

from adaptermix.adapters.systems import Baseline
from adaptermix.evaluation.comparison import ALL, Comparison, PairedTest
from adaptermix.evaluation.report import EvalReport, SystemScores
from adaptermix.evaluation.seeds import OverSeeds
from adaptermix.retrieval.correlation import Correlation
from adaptermix.retrieval.report import RetrievalReport
from adaptermix.retrieval.summary import Aggregate, LanguageScores, LayerScores, PairScores
from adaptermix.retrieval.task_scores import Point, ScoreCorrelation
from adaptermix.tasks.metrics.metric import Score

SYSTEMS = ("base", "merged")


def write_evaluation(folder, examples, *, task="massive", systems=SYSTEMS, answer=None):
    """Write an evaluation.

    Args:
        folder: Where to.
        examples: By language, utterances; each is expected to hold one slot ``time: five``.
        task: Name of its task.
        systems: Names of its systems.
        answer: From a system's number and an example's, its output; by default all but the first
            system's are right.
    """
    answer = answer or (lambda system, number: "time: five" if system else "none of it")
    langs = list(examples)
    cells = [
        SystemScores(system, lang, score, len(examples[lang]), 0, 0, 0, {"slot_f1": score})
        for at, system in enumerate(systems)
        for lang in langs
        for score in [Score(0.25 + at / 2, "slot_f1|made up")]
    ]
    comparisons = [
        Comparison(system, systems[0], over, langs, 0.75, 0.25, 0.5, 0.4, 0.6, 0.001, True, 0.002)
        for system in systems[1:]
        for over in (*langs, ALL)
    ]
    macro = {system: 0.25 + at / 2 for at, system in enumerate(systems)}
    report = EvalReport(
        *(task, "test", "transformers", 1, 0, list(systems), langs, cells, macro),
        *({"first": langs[:1]}, {"first": macro}, comparisons, ["a note"], str(folder)),
        *(Baseline(systems[0], "the first system"), PairedTest("bootstrap", 1000, "made up")),
    )
    folder.mkdir(parents=True)
    text = json.dumps({"settings": {}, "adapters": {}} | asdict(report), indent=2)
    (folder / "scores.json").write_text(text + "\n")
    for at, system in enumerate(systems):
        (folder / "predictions" / system).mkdir(parents=True)
        for lang, utterances in examples.items():
            lines = [
                json.dumps(prediction(number, lang, utterance, answer(at, number)))
                for number, utterance in enumerate(utterances)
            ]
            (folder / "predictions" / system / f"{lang}.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def numbers() -> Iterator[float]:
    """Yield numbers from 0 to 1, no two of which are the same in percent with one digit."""
    return ((377 * at % 997 + 1) / 1000 for at in range(996))


def write_distinct_evaluation(folder):
    """Write an evaluation in which no two numbers are equal, and return its record.

    Averages, differences and p-values do not follow from the scores, so that a table can have them
    only from their place in the record. Intervals say the opposite of the p-values.
    """
    draw, counts = numbers(), count(1003, 7)
    tasks, merges = (tuple(f"{name}-seed-{seed}" for seed in (1, 2)) for name in ("task", "merged"))
    systems, langs = ["base", *tasks, *merges, "other"], ["en", "cy", "sw", "ja"]
    groups = {"near": ["en", "ja"], "far": ["cy"]}
    overs = {**{lang: [lang] for lang in langs}, **groups, ALL: langs}

    def cell(system, lang):
        scores = {
            "slot_f1": Score(next(draw), f"slot_f1 of {lang}"),
            "chrf": Score(100 * next(draw), f"chrf of {lang}", "chrf"),
        }
        problems = (next(counts) for _ in range(4))
        return SystemScores(system, lang, scores["slot_f1"], *problems, scores)

    def compared(at, over, system):
        p_value = (at + 1) / 1000 if at % 3 else (at + 200) / 1000
        p_holm = p_value + (0.01 if at % 2 else 0.5) if over in langs else None
        gains = ((-1) ** (at // 2) * next(draw) for _ in range(3))
        is_apart = (p_holm or p_value) >= 0.05
        sides = next(draw), next(draw)
        return Comparison(
            *(system, tasks[0], over, overs[over], *sides, *gains, p_value, is_apart, p_holm)
        )

    def over_seeds(over, name):
        scores = [next(draw), next(draw)]
        row = OverSeeds(name, [1, 2], over, overs[over], scores, *(next(draw) for _ in range(4)))
        gain, low, high = (next(draw) - 0.3 for _ in range(3))
        if name == "task":
            return row
        gains = {"difference": gain, "difference_low": low, "difference_high": high}
        return replace(row, baseline="task", **gains)

    others = [(over, system) for over in overs for system in systems if system != tasks[0]]
    report = EvalReport(
        task="massive",
        split="dev",
        engine="transformers",
        decoded=next(counts),
        reused=next(counts),
        systems=systems,
        langs=langs,
        cells=[cell(system, lang) for system in systems for lang in langs],
        macro={system: next(draw) for system in systems},
        groups=groups,
        group_macro={name: {system: next(draw) for system in systems} for name in groups},
        comparisons=[compared(at, *names) for at, names in enumerate(others)],
        notes=["one note", "another note"],
        out=str(folder),
        baseline=Baseline(tasks[0], "the first one"),
        test=PairedTest("bootstrap", next(counts), "signature of the test"),
        over_seeds=[over_seeds(over, name) for over in overs for name in ("task", "merged")],
    )
    folder.mkdir(parents=True)
    text = json.dumps(report.as_record(), indent=2)
    (folder / "scores.json").write_text(text)
    return json.loads(text)


def prediction(number, lang, utterance, output):
    slots = [{"type": "time", "value": "five"}]
    return {
        "id": str(number),
        "lang": lang,
        "utterance": utterance,
        "output": output,
        "predicted": slots if output == "time: five" else [],
        "expected": slots,
        "malformed": int(output != "time: five"),
        "is_cut": False,
        "is_truncated": False,
    }


def write_retrieval(folder, langs=("en", "cy", "sw"), systems=("base", "early", "late")):
    """Write a retrieval record of 4 layers, in which a system's number raises its accuracy."""

    def accuracy(system):
        return [0.1, 0.2 + systems.index(system) / 10, 0.3, 0.2]

    curves = {system: accuracy(system) for system in systems}
    nothing = [0.0] * 4
    found = Correlation(0.7, 0.004), Correlation(None, None)
    points = [Point(f"l{at}", 0.1, 0.2) for at in range(8)]
    report = RetrievalReport(
        systems=list(systems),
        langs=list(langs),
        split="dev",
        sentences=997,
        pooling="mean",
        pool_skip=2,
        neighbors=4,
        pivot="all",
        depth=3,
        layers=[0, 1, 2, 3],
        groups={"low-resource": ["cy", "sw"]},
        pairs=[
            PairScores(system, one, other, curve, nothing)
            for system, curve in curves.items()
            for one, other in permutations(langs, 2)
        ],
        by_language=[
            LanguageScores(system, lang, curve, curve, curve, nothing)
            for system, curve in curves.items()
            for lang in langs
        ],
        by_layer=[
            LayerScores(system, over, curve, nothing, None)
            for system, curve in curves.items()
            for over in ("all", "low-resource")
        ],
        aggregates=[Aggregate(s, "all", "even layers", [0, 2], 0.31, 0.2) for s in systems],
        correlations=[
            ScoreCorrelation("base", "early", "slot_f1", "all", "even layers", points, *found)
        ],
        extracted=9,
        reused=0,
        notes=[],
        out=str(folder),
    )
    folder.mkdir(parents=True)
    (folder / "retrieval.json").write_text(json.dumps(report.as_record()))
    return folder


def write_distinct_retrieval(folder):
    """Write a retrieval record in which no two numbers are equal, and return it.

    The place of a layer is not its number, and averages do not follow from what they are of.
    """
    draw = numbers()
    systems, langs = ["base", "task-seed-1", "task-seed-2", "merged"], ["en", "cy", "sw"]
    groups, layers = {"low-resource": ["cy", "sw"], "near": ["en"]}, [0, 2, 3]
    overs, readings = ["all", *groups], {"even layers": [2], "middle layer": [2, 3]}

    def curve():
        return [next(draw) for _ in layers]

    def correlation(at, scored, over, reading):
        points = [Point(f"l{n}", next(draw), next(draw)) for n in range(8 + at)]
        p_value = [0.0004, 0.004, 0.04][at] if at < 3 else next(draw)
        found = Correlation(next(draw), p_value), Correlation(-next(draw), next(draw))
        return ScoreCorrelation("base", scored, "slot_f1", over, reading, points, *found)

    kinds = product(("task", "merged"), ("all", "near"), readings)
    report = RetrievalReport(
        systems=systems,
        langs=langs,
        split="dev",
        sentences=997,
        pooling="mean",
        neighbors=5,
        pivot="all",
        depth=4,
        layers=layers,
        groups=groups,
        pairs=[
            PairScores(system, one, other, curve(), curve())
            for system in systems
            for one, other in permutations(langs, 2)
        ],
        by_language=[
            LanguageScores(system, lang, *(curve() for _ in range(4)))
            for system in systems
            for lang in langs
        ],
        by_layer=[
            LayerScores(system, over, curve(), curve(), curve())
            for system in systems
            for over in overs
        ],
        aggregates=[
            Aggregate(system, over, reading, chosen, next(draw), next(draw))
            for system in systems
            for over in overs
            for reading, chosen in readings.items()
        ],
        correlations=[correlation(at, *kind) for at, kind in enumerate(kinds)],
        extracted=1009,
        reused=1013,
        notes=["one note", "another note"],
        out=str(folder),
    )
    folder.mkdir(parents=True)
    text = json.dumps(report.as_record(), indent=2)
    (folder / "retrieval.json").write_text(text)
    return json.loads(text)


def write_search(folder):
    """Write the record of a search over one weight, in which the first candidate is chosen."""

    def candidate(name, weight, dropped):
        span = {"value": weight / 2, "low": weight / 2 - 0.1, "high": weight / 2 + 0.1}
        return {
            "name": name,
            "weighting": {"weights": [weight, 1 - weight]},
            "examples": 6 if dropped else 18,
            "score": span,
            "difference": {"interval": span, "p_value": 0.5},
            "dropped": dropped,
        }

    candidates = [
        candidate("0.9", 0.9, None),
        candidate("0.7", 0.7, None),
        candidate("0.5", 0.5, 1),
    ]
    merge = {"out": "merged.safetensors", "method": "exact", "sources": [], "weighting": {}}
    merge |= {"rank": 4, "modules": 2, "relative_error": 0, "cross_term_energy": 0}
    record = {"winner": "0.9", "verdict": "0.9 is best", "tied": [], "candidates": candidates}
    record |= {"task": "massive", "metric": "slot_f1", "langs": ["en"], "engine": "transformers"}
    record |= {"decoded": 42, "exhaustive": 54, "reused": 0, "notes": [], "folder": str(folder)}
    record |= {"merge": merge | {"inactive": "average", "written": True}}
    folder.mkdir(parents=True)
    (folder / "search.json").write_text(json.dumps(record))
    return folder
