"""Records as eval and retrieval write them, with made-up numbers, for tests of reports."""

import json
from dataclasses import asdict
from itertools import permutations

from adaptermix.adapters.systems import Baseline
from adaptermix.evaluation.comparison import ALL, Comparison, PairedTest
from adaptermix.evaluation.report import EvalReport, SystemScores
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
