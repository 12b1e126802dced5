"""Tiny models made from configs, tiny corpora, no network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that needs the hub points it at a local server
os.environ.pop("COLUMNS", None)  # Rich keeps for good the width that it finds at its import
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models gain nothing by more, and bits stay the same

import json
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from tokenizers.decoders import ByteLevel
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

settings.register_profile("adaptermix", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("adaptermix")

# These come first, so that of two processes neither is left alone with one of them at the end.
LONGEST = ("test_vllm.py", "test_demo.py", "test_paper_recipes.py", "test_recipe.py")
SHARED = Path(__file__).parent.parent.parent / "shared"
SENTENCES = {
    "en": ["wake me up at five", "play jazz in the kitchen", "turn off the red lamp", "hello"],
    "cy": ["deffra fi am bump", "chwarae jazz yn y gegin", "diffodd y lamp goch", "helo"],
    "sw": ["niamshe saa tano", "piga jazz jikoni", "zima taa nyekundu", "habari"],
}
CHAT_TEMPLATE = (
    "<|bos|>{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,  # the smallest that vLLM has CPU kernels for
    "max_position_embeddings": 256,
}
LAYOUTS = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "gemma2": Gemma2Config,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {name: at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE of 400 tokens on the test sentences."""
    specials = ["<|bos|>", "<|end|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([s for group in SENTENCES.values() for s in group], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|bos|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        chat_template=CHAT_TEMPLATE,
    )


def save_model(folder: Path, layout: str = "llama", dtype: torch.dtype = torch.float32) -> Path:
    """Save a model of random weights and its tokenizer; the same every time."""
    tokenizer = make_tokenizer()
    shape = {key: SHAPE[key] for key in SHAPE if layout != "qwen2" or key != "head_dim"}
    config = LAYOUTS[layout](
        **shape,
        vocab_size=len(tokenizer),
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    with torch.no_grad():  # the stock initialization is too small for blocks to matter
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0, 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def threads_as_before():
    """A test that pins torch's threads does so for itself: sums are rounded by their number."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def answer_cache(tmp_path, monkeypatch) -> Path:
    """Give every test a cache of its own, and leave the user's alone."""
    monkeypatch.setenv("ADAPTERMIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session", params=sorted(LAYOUTS))
def layout_dir(request, tmp_path_factory) -> Path:
    """A model folder of every decoder layout."""
    return save_model(tmp_path_factory.mktemp("layouts") / request.param, request.param)


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


@pytest.fixture(scope="session")
def corpus_dir(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus")
