"""Pretrain a tiny Llama decoder from raw text on a CPU.

The result is a base model small enough to keep with a test suite, but able to copy spans from its
prompt, so that a LoRA can learn slot filling ("wake me at five am" becomes "time: five am"). At
this size, a model does not learn to copy from plain sentences alone. Most documents therefore
repeat a sentence, its spans, or a random sequence. If parallel text is given, some are
translations. There are no slot labels in this training.

Example:
    python examples/pretrain_base.py base --text en=raw/en.txt --text cy=raw/cy.txt:0.1
"""

import argparse
import json
import math
import random
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch.nn.utils.rnn import pad_sequence
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import IterableDataset
from transformers import (
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

BOS, END, PAD = "<|bos|>", "<|end|>", "<|pad|>"
USER, ASSISTANT, SYSTEM = "<|user|>", "<|assistant|>", "<|system|>"
CHAT_TEMPLATE = (
    "{{ '<|bos|>' }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SEPARATORS = ("\n", ";", ",", " |", " =", ":")
ROW_TOKENS = 128
MAX_POSITIONS = 512
MAX_WORDS = 40  # of a sentence, to leave room for its copy
IGNORED = -100  # label of a token that the loss ignores
HELD_OUT_SENTENCES = 64  # per source, at most one in 50
MEASURED_ROWS, MEASURED_LENGTH = 64, 16

# Shares of the documents. The random share falls linearly from the first to the second number
# over the first part of training. Random sequences can only be predicted by copying, so the model
# learns it early; later, the tokens are better spent on real sentences. With 0.3 instead of 0.6
# at the start, copying of random sequences was still absent after 1,500 steps.
RANDOM_SHARE = (0.6, 0.25)
RANDOM_DECAY_UNTIL = 0.6
TRANSLATION_SHARE = 0.35
CHAT_SHARE = 0.4
SYSTEM_SHARE = 0.25  # share of the chats
CONTINUATIONS = {"plain": 0.25, "copy": 0.25, "spans": 0.2, "keyed": 0.3}

Word = tuple[int, ...]
Sentence = list[Word]
Document = list[tuple[int, int]]  # tokens and labels


class InputError(Exception):
    """A mistake in the input, with a one-line message."""


def read_rows(path: Path, columns: int) -> list[list[str]]:
    """Read the tab-separated columns of every non-blank line, with normalized spaces."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        number = error.object[: error.start].count(b"\n") + 1
        raise InputError(f"{path}:{number}: not UTF-8 text") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    rows = []
    for number, line in enumerate(lines, 1):
        cells = [" ".join(cell.split()) for cell in line.split("\t", -1 if columns > 1 else 0)]
        if any(cells):
            if len(cells) != columns or not all(cells):
                raise InputError(f"{path}:{number}: expected {columns} columns separated by a tab")
            rows.append(cells)
    if not rows:
        raise InputError(f"{path}: no text in it")
    return rows


def train_tokenizer(texts: Sequence[str], vocab: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer."""
    # With a space before the first word of every text, a word has the same tokens at the start of
    # a sentence as inside one. Otherwise, copying would require both forms.
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", 1, 0)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=[BOS, END, PAD, USER, ASSISTANT, SYSTEM],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT, SYSTEM],
        model_max_length=MAX_POSITIONS,
        chat_template=CHAT_TEMPLATE,
    )


def flat(sentence: Sentence) -> list[int]:
    """Join the words of a sentence."""
    return [token for word in sentence for token in word]


def mark(ids: Iterable[int], learn: bool = True) -> Document:
    """Label tokens with themselves, or with IGNORED if they cannot be predicted."""
    return [(token, token if learn else IGNORED) for token in ids]


class Rows(IterableDataset[dict[str, torch.Tensor]]):
    """An endless stream of rows packed with random documents."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        """Read every source, train the tokenizer on all of them, and encode them by word."""
        self.rng = random.Random(arguments.seed)
        self.progress = 0.0  # progress of the training, from 0 to 1
        texts = [[row[0] for row in read_rows(path, 1)] for path, _ in arguments.text]
        pairs = [read_rows(path, 2) for path, _ in arguments.parallel]
        every = [text for group in sum(pairs, texts) for text in group]
        self.tokenizer = train_tokenizer(every, arguments.vocab)
        tokenize = self.tokenizer.encode  # adds a BOS
        words = {word for text in every for word in text.split()[:MAX_WORDS]}
        known = {word: tuple(tokenize(word)[1:]) for word in words}

        def encode(group: Iterable[str]) -> list[Sentence]:
            return [[known[word] for word in text.split()[:MAX_WORDS]] for text in group]

        rng = random.Random(arguments.seed)
        held_out: list[str] = []
        for group in texts:
            distinct = sorted(set(group))
            held_out += rng.sample(distinct, min(HELD_OUT_SENTENCES, len(distinct) // 50))
        self.held_out = encode(held_out)
        aside = set(held_out)
        # If all sentences of a file are held out for another one, the file is kept whole.
        self.texts = [encode([t for t in group if t not in aside] or group) for group in texts]
        self.text_weights = [weight for _, weight in arguments.text]
        self.pairs = [[encode(pair) for pair in group] for group in pairs]
        self.pair_weights = [weight for _, weight in arguments.parallel]
        self.words = sorted(set(known.values()))
        # All tokens, not only those of the texts: an unseen token keeps its small initial
        # embedding, and with tied embeddings it could never be generated ("_" in a slot's name).
        special = self.tokenizer.all_special_ids
        self.tokens = [(t,) for t in range(len(self.tokenizer)) if t not in special]
        special = self.tokenizer.convert_tokens_to_ids([BOS, END, USER, ASSISTANT, SYSTEM])
        self.bos, self.end, self.user, self.assistant, self.system = special
        # Encoded after a letter, because the tokenizer puts a space before a text.
        self.separators = [tuple(tokenize("x" + s)[len(tokenize("x")) :]) for s in SEPARATORS]

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        """Yield packed rows of ROW_TOKENS ids and labels."""
        while True:
            row: Document = []
            while len(row) < ROW_TOKENS:
                row += self.draw()
            # The rest of the last document is dropped: a copy without its source would teach
            # guessing.
            ids, labels = torch.tensor(row[:ROW_TOKENS]).unbind(1)
            yield {"input_ids": ids, "labels": labels}

    def draw(self) -> Document:
        """Draw a document of one of the three kinds."""
        first, last = RANDOM_SHARE
        share = first + (last - first) * min(1.0, self.progress / RANDOM_DECAY_UNTIL)
        choice = self.rng.random()
        if choice < share:
            return self.repetition(self.random_sentence(), learn=False)
        if choice >= share + (1 - share) * (TRANSLATION_SHARE * min(1.0, sum(self.pair_weights))):
            return self.repetition(self.sentence(), learn=True)
        source, target = self.rng.choice(self.rng.choices(self.pairs, self.pair_weights)[0])
        if self.rng.random() < 0.5:
            source, target = target, source
        document, separator = self.begin(source, learn=True)
        return document + mark([*separator, *flat(target), self.end])

    def sentence(self) -> Sentence:
        """Draw a source by weight, then one of its sentences."""
        return self.rng.choice(self.rng.choices(self.texts, self.text_weights)[0])

    def random_sentence(self) -> Sentence:
        """Draw random tokens, random words, or words of random sentences."""
        length = self.rng.randint(3, 16)
        pool = self.rng.choice((self.tokens, self.words, None))
        if pool is None:  # frequent words, whose embeddings are learned first
            return [self.rng.choice(self.sentence()) for _ in range(length)]
        return self.rng.choices(pool, k=length)

    def repetition(self, sentence: Sentence, learn: bool) -> Document:
        """Continue a sentence, which may be unpredictable, with copies, which are predictable."""
        kind = self.rng.choices(list(CONTINUATIONS), list(CONTINUATIONS.values()))[0]
        document, separator = self.begin(sentence, learn)
        if kind in ("spans", "keyed"):
            document += mark(separator) + self.spans(sentence, separator, keyed=kind == "keyed")
        elif kind == "copy" or not learn:
            document += mark([*separator, *flat(sentence)])
        return document + mark([self.end])

    def begin(self, sentence: Sentence, learn: bool) -> tuple[Document, Word]:
        """Begin a document with a sentence, and choose the separator after it."""
        document = mark([self.bos])
        source = mark(flat(sentence), learn)
        if self.rng.random() >= CHAT_SHARE:
            return document + source, self.rng.choice(self.separators)
        if self.rng.random() < SYSTEM_SHARE:
            # In practice an instruction comes first, and it is not what must be copied.
            document += mark([self.system, *flat(self.sentence()), self.end])
        return document + mark([self.user]) + source, (self.end, self.assistant)

    def spans(self, sentence: Sentence, separator: Word, keyed: bool) -> Document:
        """Copy one to three spans in order; if keyed, each follows a random word and a colon."""
        if self.assistant in separator:
            separator = self.rng.choice(self.separators)
        places = len(sentence) + 1
        count = min(self.rng.randint(1, 3), places // 2)
        cuts = sorted(self.rng.sample(range(places), min(2 * count, places)))
        document: Document = []
        for start, stop in zip(cuts[::2], cuts[1::2], strict=False):
            document += mark(separator) if document else []
            if keyed:
                document += mark(self.rng.choice(self.words), learn=False)
                document += mark(self.separators[SEPARATORS.index(":")])
            document += mark(flat(sentence[start:stop]))
        return document


class Meter(TrainerCallback):
    """Passes the training's progress to the rows, and measures copying of unseen sequences."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.curve: list[dict[str, float]] = []
        rng = random.Random(0)  # its own, so that measuring does not change the training
        randoms = [rng.choices(rows.tokens, k=MEASURED_LENGTH) for _ in range(MEASURED_ROWS)]
        chosen = rng.sample(rows.held_out, min(2 * MEASURED_ROWS, len(rows.held_out)))
        self.sentences = {"copy_random_tokens": randoms, "copy_sentence_tokens": chosen}

    def repeat(self, sentence: Sentence) -> Document:
        """Repeat a sentence as an answer, and label the answer except for its first token."""
        ids = flat(sentence)
        start = [self.rows.bos, self.rows.user, *ids, self.rows.end, self.rows.assistant, ids[0]]
        return mark(start, learn=False) + mark(ids[1:])

    @torch.inference_mode()
    def measure(self, model: LlamaForCausalLM) -> dict[str, float]:
        """Return the share of repeated tokens that the model predicts correctly."""
        shares = {}
        for name, sentences in self.sentences.items():
            if not sentences:
                continue  # too few to hold any out
            tensors = [torch.tensor(self.repeat(sentence)) for sentence in sentences]
            ids, labels = pad_sequence(tensors, batch_first=True, padding_value=IGNORED).unbind(2)
            # Attention is causal, so padding on the right does not change predictions.
            right = model(input_ids=ids.clamp(min=0)).logits[:, :-1].argmax(-1) == labels[:, 1:]
            shares[name] = round(float(right.sum() / (labels != IGNORED).sum()), 4)
        return shares

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        """Update the progress, and print a measurement at every logging step."""
        self.rows.progress = state.global_step / state.max_steps
        if state.global_step % args.logging_steps == 0:
            self.curve.append({"step": state.global_step, **self.measure(others["model"])})
            print(json.dumps(self.curve[-1]), file=sys.stderr, flush=True)


def rate_factor(progress: float, steps: int) -> float:
    """Return the learning rate's factor: warm-up over 3% of the training, cosine decay to 2%."""
    warm = 0.03
    if progress < warm:
        return min(1.0, max(progress, 1 / steps) / warm)  # the first step has no rate of zero
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))


def pretrain(arguments: argparse.Namespace, folder: Path) -> None:
    """Train a model, and write it with its tokenizer and pretraining.json to a folder."""
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    rows = Rows(arguments)
    ids = {n: getattr(rows.tokenizer, n) for n in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = LlamaConfig(
        vocab_size=len(rows.tokenizer),
        hidden_size=arguments.width,
        intermediate_size=arguments.intermediate,
        num_hidden_layers=arguments.layers,
        num_attention_heads=arguments.heads,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        **ids,
    )
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(**ids)
    meter = Meter(rows)
    settings = TrainingArguments(
        output_dir=str(folder),
        max_steps=arguments.steps,
        per_device_train_batch_size=max(1, arguments.batch_tokens // ROW_TOKENS),
        learning_rate=arguments.lr,
        weight_decay=0.05,
        adam_beta2=0.98,
        logging_steps=max(1, min(250, arguments.steps // 4)),
        save_strategy="no",
        seed=arguments.seed,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=settings, train_dataset=rows, callbacks=[meter])
    trainer.lr_scheduler = LambdaLR(
        trainer.create_optimizer(), lambda _: rate_factor(rows.progress, arguments.steps)
    )
    result = trainer.train()
    model.to(torch.bfloat16)  # measured below with the dtype in which it is saved
    record = {
        "arguments": {name: plain(value) for name, value in vars(arguments).items()},
        "parameters": model.num_parameters(),
        "mean_loss": result.training_loss,
        "curve": meter.curve,
        **meter.measure(model),
    }
    model.save_pretrained(folder)
    rows.tokenizer.save_pretrained(folder)
    (folder / "pretraining.json").write_text(json.dumps(record, indent=2) + "\n")


def plain(value: Any) -> Any:
    """Replace paths by file names for the record, because folders do not affect the model."""
    if isinstance(value, list):
        return {path.name: weight for path, weight in value}
    return value.name if isinstance(value, Path) else value


def source(text: str) -> tuple[Path, float]:
    """Parse NAME=FILE[:WEIGHT]; the name is only for readers."""
    found = re.fullmatch(r"[^=]+=(.+?)(?::(\d*\.?\d+))?", text)
    if not found or float(found[2] or 1) == 0:
        raise InputError(f"{text}: expected NAME=FILE[:WEIGHT] with a weight above 0")
    return Path(found[1]), float(found[2] or 1)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the script; return 0, 4 for unusable input, or 5 if the output cannot be written."""
    parser = argparse.ArgumentParser(description="Pretrain a tiny Llama decoder from raw text.")
    add = parser.add_argument
    add("out_dir", type=Path, help="model folder to write; must not exist")
    repeated: dict[str, Any] = {"action": "append", "type": source, "metavar": "NAME=FILE[:WEIGHT]"}
    add("--text", **repeated, required=True, help="one sentence a line; repeatable")
    add("--parallel", **repeated, default=[], help="tab-separated translations; repeatable")
    add("--steps", type=int, default=7000, help="optimizer steps")
    add("--batch-tokens", type=int, default=1024, help="tokens a step, in rows of 128")
    add("--lr", type=float, default=2e-3, help="highest learning rate")
    sizes = {"layers": 8, "width": 128, "heads": 4, "intermediate": 384, "vocab": 4000}
    for name, default in {**sizes, "seed": 1, "threads": 2}.items():
        add(f"--{name}", type=int, default=default)
    try:
        arguments = parser.parse_args(argv)
        out = arguments.out_dir
        if out.exists() or out.is_symlink():
            raise FileExistsError(f"{out} already exists")
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
            part = Path(scratch) / out.name
            pretrain(arguments, part)
            part.rename(out)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 4 if isinstance(error, InputError) else 5
    return 0


if __name__ == "__main__":
    sys.exit(main())
