"""Write Universal NER with short prompts and answers, for a small model.

    python examples/gemma/entities.py UNER_DIR OUT LANG... [--characters N]

The paper's instruction for named entities has 136 tokens of Gemma's tokenizer, and its JSON answers
28 per entity. Here the prompt is the sentence, and the answer is `PER: Ada; LOC: London` or `None`,
as in slot filling. OUT gets `LANG.SPLIT.jsonl` for the task in `entities-task.toml`, without
sentences of more than N characters.
"""

import argparse
import json
from pathlib import Path
from typing import get_args

from adaptermix.files.text import Split
from adaptermix.tasks.slots import Slot, render_answer
from adaptermix.tasks.uner import EntityExample, read_uner


def main() -> None:
    """Write the files of each language."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("uner", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("langs", nargs="+")
    parser.add_argument("--characters", type=int, default=120)
    given = parser.parse_args()
    given.out.mkdir(parents=True)
    for lang in given.langs:
        for split in get_args(Split):
            examples = read_uner(lang, split, given.uner)
            kept = [row for row in examples if len(row.utterance) <= given.characters]
            lines = [json.dumps(record(row), ensure_ascii=False) + "\n" for row in kept]
            path = given.out / f"{lang}.{split}.jsonl"
            path.write_text("".join(lines), encoding="utf-8")
            print(f"{path}: {len(kept)} of {len(examples)} sentences")


def record(example: EntityExample) -> dict[str, str]:
    """Return a sentence as prompt, and its entities as the answer."""
    slots = [Slot(entity.type, entity.text) for entity in example.entities]
    return {"id": example.id, "prompt": example.utterance, "answer": render_answer(slots)}


if __name__ == "__main__":
    main()
