"""Tiny corpora, and where the real data may be."""

import json
from pathlib import Path

SHARED = Path(__file__).parents[3] / "shared"
SENTENCES = {
    "en": ["wake me up at five", "play jazz in the kitchen", "turn off the red lamp", "hello"],
    "cy": ["deffra fi am bump", "chwarae jazz yn y gegin", "diffodd y lamp goch", "helo"],
    "sw": ["niamshe saa tano", "piga jazz jikoni", "zima taa nyekundu", "habari"],
}


def write_corpus(folder: Path, repeats: int = 3) -> Path:
    """Write a MASSIVE-like corpus and pairs of en, cy and sw."""
    colors = ["red", "blue", "green", "white", "black", "grey", "pink", "gold", "dark", "pale"]
    places = ["kitchen", "hall", "cellar", "garden", "attic", "office", "bath", "shed"]
    patterns = {
        "en-US": "turn on the [color_type : {c}] lamp in the [house_place : {p}]",
        "cy-GB": "rho'r lamp [color_type : {c}] ymlaen yn y [house_place : {p}]",
        "sw-KE": "washa taa ya [color_type : {c}] ndani ya [house_place : {p}]",
    }
    (folder / "massive").mkdir(parents=True)
    (folder / "pairs").mkdir()
    combinations = [(c, p) for c in colors for p in places]
    for locale, pattern in patterns.items():
        lines = []
        for number, (color, place) in enumerate(combinations):
            annotated = pattern.format(c=color, p=place)
            utterance = annotated.replace("[color_type : ", "").replace("[house_place : ", "")
            part = "test" if number % 8 == 0 else "dev" if number % 8 == 1 else "train"
            lines.append(
                {
                    "id": str(number),
                    "locale": locale,
                    "partition": part,
                    "scenario": "iot",
                    "intent": "iot_hue_lighton",
                    "utt": utterance.replace("]", ""),
                    "annot_utt": annotated,
                }
            )
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / "massive" / f"{locale}.jsonl").write_text(text, encoding="utf-8")
    for lang in ("cy", "sw"):
        rows = [
            f"{lang} {number} {other}\t{number} {english}\n"
            for number in range(repeats * 10)
            for other, english in zip(SENTENCES[lang], SENTENCES["en"], strict=True)
        ]
        (folder / "pairs" / f"{lang}-en.tsv").write_text("".join(rows), encoding="utf-8")
    return folder
