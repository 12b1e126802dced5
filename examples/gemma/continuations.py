"""Write a reference task from one side of parallel text: continue a sentence.

    python examples/gemma/continuations.py PAIRS_DIR OUT PAIR... [--limit N]

The prompt is the first half of a sentence's words, and the answer is the rest. Pairs are read and
cleaned as in `adaptermix train-align`. OUT gets `LANG.train.jsonl` and, with every tenth sentence,
`LANG.dev.jsonl` for the task in `continuations-task.toml`: for each pair its first language, and
for English the other side of the first pair.
"""

import argparse
import json
from itertools import islice
from pathlib import Path

from adaptermix.data.pairs import PairPlace, read_clean_pairs


def main() -> None:
    """Write the files of each language."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs_dir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("pairs", nargs="+")
    parser.add_argument("--limit", type=int)
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    sentences: dict[str, list[str]] = {}
    for pair in given.pairs:
        clean = read_clean_pairs(
            pair, PairPlace(given.pairs_dir), several_sentences=False, check_script=True
        ).kept
        rows = list(islice(clean, given.limit))
        source, target = pair.split("-")
        sentences[source] = [row.source for row in rows]
        sentences.setdefault(target, [row.target for row in rows])
    for lang, texts in sentences.items():
        records = [record(text) for text in texts if len(text.split()) > 1]
        lines = [json.dumps(each, ensure_ascii=False) + "\n" for each in records]
        dev = lines[::10]
        train = [line for at, line in enumerate(lines) if at % 10]
        (given.out / f"{lang}.train.jsonl").write_text("".join(train), encoding="utf-8")
        (given.out / f"{lang}.dev.jsonl").write_text("".join(dev), encoding="utf-8")
        print(f"{lang}: {len(train)} sentences to train, {len(dev)} dev")


def record(sentence: str) -> dict[str, str]:
    """Return the first half of a sentence's words as prompt, and the rest as the answer."""
    words = sentence.split()
    half = (len(words) + 1) // 2
    return {"prompt": " ".join(words[:half]), "answer": " ".join(words[half:])}


if __name__ == "__main__":
    main()
