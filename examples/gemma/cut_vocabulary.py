"""Cut a model's vocabulary to the tokens that occur in some data.

    python examples/gemma/cut_vocabulary.py MODEL OUT DATA [--system-prompt TEXT]

DATA is searched for MASSIVE (.jsonl), prompts with answers (.jsonl), sentence pairs (.tsv) and
FLORES-200 (.dev, .devtest); all may be gzipped. Texts are tokenized as in adaptermix. A token is
kept if it occurs, if merges build a kept token from it, or if it is special or a single character
or byte, so that any other text can still be tokenized. The logits of kept tokens do not change,
because their rows are copied.
"""

import argparse
import gzip
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer

from adaptermix.generation.prompts import PromptEncoder
from adaptermix.tasks.massive import Massive, SlotExample
from adaptermix.tasks.task import chat_of

ENDINGS = (".jsonl", ".tsv", ".dev", ".devtest")
BATCH = 20000  # texts to tokenize at a time


def main() -> None:
    """Cut tokenizer and weights, and check that all texts of the data keep their tokens."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--system-prompt", default=Massive().system_prompt)
    given = parser.parse_args()
    if given.out.exists():
        raise SystemExit(f"error: {given.out} exists; name another folder")
    encoder = PromptEncoder(AutoTokenizer.from_pretrained(given.model))
    task = Massive(system_prompt=given.system_prompt)
    texts = sorted({text for path in files(given.data) for text in texts_of(path, task, encoder)})
    if not texts:
        raise SystemExit(f"error: {given.data}: no files that end with {', '.join(ENDINGS)}")

    whole = Tokenizer.from_file(str(given.model / "tokenizer.json"))
    used = {token for ids in tokenized(whole, texts) for token in ids}
    described = json.loads((given.model / "tokenizer.json").read_text(encoding="utf-8"))
    kept = kept_ids(described, used)
    small = Tokenizer.from_str(json.dumps(cut_tokenizer(described, kept)))
    for text, before, after in zip(
        texts, tokenized(whole, texts), tokenized(small, texts), strict=True
    ):
        if before != [kept[token] for token in after]:
            raise SystemExit(f"error: the cut tokenizer splits a text otherwise: {text!r}")
    cut_weights(given.model, given.out, kept)
    copy_tokenizer(given.model, given.out, small)
    print(f"{len(kept):,} of {whole.get_vocab_size():,} tokens kept; {len(texts):,} texts the same")


def files(data: Path) -> list[Path]:
    """Return the data files in a folder and its subfolders, sorted."""
    return sorted(
        Path(folder) / name
        for folder, _, names in os.walk(data, followlinks=True)
        for name in names
        if name.removesuffix(".gz").endswith(ENDINGS)
    )


def texts_of(path: Path, task: Massive, encoder: PromptEncoder) -> Iterator[str]:
    """Yield the texts of a file that models read or write: prompts, answers and sentences."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8", newline="\n") as lines:
        for line in lines:
            if ".jsonl" in path.suffixes:
                row = json.loads(line)
                if "prompt" in row:
                    yield encoder.prompt_text(chat_of(task.system_prompt or "", row["prompt"]))
                    yield row["answer"]
                else:
                    example = SlotExample(row["id"], "", row["utt"], row["annot_utt"])
                    yield encoder.prompt_text(task.messages(example))
                    yield task.answer(example)
            else:
                yield from (cell.strip() for cell in line.split("\t"))


def tokenized(tokenizer: Tokenizer, texts: list[str]) -> Iterator[list[int]]:
    """Yield the token ids of each text."""
    for at in range(0, len(texts), BATCH):
        for encoding in tokenizer.encode_batch(texts[at : at + BATCH], add_special_tokens=False):
            yield encoding.ids


def kept_ids(tokenizer: dict, used: Iterable[int]) -> list[int]:
    """Return the old ids of the kept tokens, sorted; a token's new id is its index."""
    ids = tokenizer["model"]["vocab"]
    names = {number: token for token, number in ids.items()}
    special = {token["content"] for token in tokenizer["added_tokens"]}
    unused = {token for token in special if token.startswith("<unused")}
    keep = {names[number] for number in used if number in names} | (special - unused)
    keep |= {token for token in ids if len(token) == 1 and ord(token) < 0x3000}
    keep |= {token for token in ids if len(token) == 6 and token.startswith("<0x")}
    rank = {tuple(pair): at for at, pair in enumerate(merges_of(tokenizer))}
    for token in keep - special:
        keep |= parts(token, rank)
    return sorted(ids[token] for token in keep if token in ids)


def merges_of(tokenizer: dict) -> list[list[str]]:
    """Return the merges as pairs; older files have each pair as one text."""
    merges = tokenizer["model"]["merges"]
    return [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]


def parts(token: str, rank: dict[tuple[str, str], int]) -> set[str]:
    """Return all intermediate tokens that merges produce between the characters and a token."""
    pieces = list(token)
    made = set(pieces)
    while len(pieces) > 1:
        pairs = list(zip(pieces, pieces[1:], strict=False))
        at = min(range(len(pairs)), key=lambda place: rank.get(pairs[place], len(rank)))
        if pairs[at] not in rank:
            break
        pieces[at : at + 2] = ["".join(pairs[at])]
        made.add(pieces[at])
    return made


def cut_tokenizer(tokenizer: dict, kept: list[int]) -> dict:
    """Return the tokenizer with only the kept tokens and the merges between them."""
    new = {old: number for number, old in enumerate(kept)}
    ids = tokenizer["model"]["vocab"]
    vocab = {token: new[number] for token, number in ids.items() if number in new}
    merges = [pair for pair in merges_of(tokenizer) if {*pair, "".join(pair)} <= vocab.keys()]
    added = [
        {**token, "id": new[token["id"]]}
        for token in tokenizer["added_tokens"]
        if token["id"] in new
    ]
    processor = tokenizer["post_processor"]
    for token in (processor or {}).get("special_tokens", {}).values():
        token["ids"] = [new[number] for number in token["ids"]]
    model = {**tokenizer["model"], "vocab": vocab, "merges": merges}
    return {**tokenizer, "model": model, "added_tokens": added}


def cut_weights(folder: Path, out: Path, kept: list[int]) -> None:
    """Write the model with only the kept rows of its embeddings and LM head."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    weights = {
        layer.weight for layer in (model.get_input_embeddings(), model.get_output_embeddings())
    }
    for weight in weights:  # a single one if they are tied
        weight.data = weight.data[kept].contiguous()
    new = {old: number for number, old in enumerate(kept)}
    model.config.vocab_size = len(kept)
    for config in (model.config, model.generation_config):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id", "unk_token_id"):
            old = getattr(config, name, None)
            if old is not None:
                setattr(config, name, [new[o] for o in old] if isinstance(old, list) else new[old])
    model.save_pretrained(out)


def copy_tokenizer(folder: Path, out: Path, tokenizer: Tokenizer) -> None:
    """Write the cut tokenizer, with the config and chat template of the original."""
    (out / "tokenizer.json").write_text(tokenizer.to_str(), encoding="utf-8")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    settings.pop("added_tokens_decoder", None)  # old ids; tokenizer.json has the new ones
    (out / "tokenizer_config.json").write_text(json.dumps(settings, indent=2), encoding="utf-8")
    template = folder / "chat_template.jinja"
    if template.is_file():
        shutil.copy(template, out)


if __name__ == "__main__":
    main()
