"""Model cards: what they tell of an adapter, and what they keep to themselves."""

from pathlib import Path

import pytest
from helpers.cards import ALIGNED, TRAINED, write
from huggingface_hub import ModelCard

from adaptermix.adapters.card import card_path, languages_of, model_card
from adaptermix.merging.merge import merge
from adaptermix.settings.merging import MergeSettings


def test_a_card_tells_what_was_trained_on_what(tmp_path):
    card = ModelCard.load(write(tmp_path / "task", TRAINED) / "README.md")
    assert card.data.base_model == "somebody/llama"
    assert card.data.library_name == "peft"
    assert card.data.language == ["en", "cy"]
    assert card.data.tags == ["lora", "adaptermix", "intent"]
    for part in ("fine-tuned on intent in en, cy", "en 1,200, cy 80", "| lr | 0.0005 |", "0.2500"):
        assert part in card.text


def test_a_card_of_conversations_names_no_task(tmp_path):
    settings = TRAINED["settings"] | {"task": "massive", "chat": "/home/somebody/chats.jsonl"}
    record = TRAINED | {"settings": settings, "examples": {"chat": 90}}
    card = ModelCard.load(write(tmp_path / "task", record) / "README.md")
    assert card.data.tags == ["lora", "adaptermix"]
    assert "fine-tuned on conversations." in card.text
    assert "massive" not in str(card)


@pytest.mark.parametrize("name", ["task", "task.safetensors"])
def test_a_card_keeps_paths_and_prompts_to_itself(tmp_path, name):
    path = write(tmp_path / name, TRAINED, base="/home/somebody/models/llama")
    card = ModelCard.load(card_path(path))
    for secret in ("somebody", "private", "swordfish", str(tmp_path)):
        assert secret not in card.content
    assert card.data.base_model is None
    assert "A LoRA adapter for llama" in card.text


def test_a_merge_has_the_languages_and_names_of_its_sources(tmp_path):
    sources = [
        write(tmp_path / "task.safetensors", TRAINED),
        write(tmp_path / "align", ALIGNED, seed=1),
    ]
    merge(sources, MergeSettings(weights="0.9,0.1", out=tmp_path / "merged.safetensors"))
    card = ModelCard.load(tmp_path / "merged.README.md")
    assert sorted(card.data.language) == ["cy", "en", "sw"]
    assert "the exact merge 0.9 x task + 0.1 x align" in card.text
    assert "| align | 0.1 | 2 | " in card.text
    assert str(tmp_path) not in card.content


@pytest.mark.parametrize("force", [False, True])
def test_a_card_beside_a_file_is_replaced_unless_a_person_wrote_it(tmp_path, force):
    out, card = tmp_path / "task.safetensors", tmp_path / "task.README.md"
    sources = [write(tmp_path / "a", TRAINED), write(tmp_path / "b", ALIGNED, seed=1)]
    for weight in (0.5, 0.25):
        if not force:
            out.unlink(missing_ok=True)
        merge(sources, MergeSettings(weight=weight, out=out), force=force)
        assert f"exact merge {weight} x a" in card.read_text()
    card.write_text("mine: not made by | adaptermix 0.1")
    if not force:
        out.unlink()
    merge(sources, MergeSettings(weight=0.5, out=out), force=force)
    assert card.read_text().startswith("mine")


def test_an_adapter_without_a_record_gets_no_card(tmp_path):
    assert not card_path(write(tmp_path / "plain", {})).exists()


def test_names_cannot_bring_markup_into_a_card(tmp_path):
    record = {
        "command": "merge",
        "method": "exact",
        "sources": [{"path": "<script>x</script>|y", "weight": 1.0, "rank": 2, "blake3": "ab"}],
    }
    card = model_card(tmp_path / "<b>evil\x00", {"r": 2}, record)
    assert "<script>" not in card
    assert "\x00" not in card
    assert "\n# &lt;b>evil" in card


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"examples": {"cy-en": 1, "sw-en": 2}}, ["cy", "en", "sw"]),
        ({"examples": {"zh-CN": 1, "eng_Latn": 2}}, ["zh", "eng"]),
        ({"languages": ["cy"], "examples": {"en": 1}}, ["cy"]),
        ({"examples": 3}, []),
        ({}, []),
    ],
)
def test_languages_are_codes_each_once(record, expected):
    assert languages_of(record) == expected


def rows_of(card):
    """Return the rows of all tables in a card, as lists of cells."""
    lines = (line for line in card.splitlines() if line.startswith("| "))
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_a_card_has_the_numbers_of_its_record():
    record = TRAINED | {
        "settings": TRAINED["settings"] | {"dropout": 0.0, "seed": 0},
        **{"rank": 5, "modules": 28, "inactive": 6, "base_fingerprint": "f00d"},
        "on": [{"path": "/private/lower.safetensors", "blake3": "abcdef0123456789", "weight": 0.5}],
    }
    card = model_card(Path("task"), {"r": 8}, record)
    rows = rows_of(card)
    for row in (
        ["base fingerprint", "f00d"],
        ["made by", "adaptermix 0.1.0, train-task"],
        ["training examples", "en 1,200, cy 80"],
        ["steps", "30"],
        ["rank", "5"],
        ["modules", "28"],
        ["inactive modules", "6"],
        ["lower", "0.5", "abcdef012345"],
        ["loss", "0.2500"],
        ["lr", "0.0005"],
        ["dropout", "0.0"],
        ["seed", "0"],
    ):
        assert row in rows, row
    assert ["rank", "8"] in rows_of(model_card(Path("task"), {"r": 8}, {"command": "merge"}))


def test_a_card_shows_the_evidence_for_the_layer():
    layers = {"layer": "2", "accuracy": [0.1, 0.25, 0.3], "first_token": [1.5, 2.25, 3.0]}
    card = model_card(Path("align"), {}, ALIGNED | {"layers": layers})
    assert "to align sw, en at layer 2 with" in card
    assert [row for row in rows_of(card) if row[1].endswith("%")] == [
        ["1", "10.0%", "1.50"],
        ["2 (aligned)", "25.0%", "2.25"],
        ["3", "30.0%", "3.00"],
    ]
    plain = model_card(Path("align"), {}, ALIGNED)
    assert "at layer 16 with" in plain
    assert "Retrieval by layer" not in plain


def test_a_card_of_a_search_has_its_interval_and_verdict():
    search = {"task": "/private/own.toml", "langs": ["en", "cy"], "low": 0.41, "high": 0.57}
    record = {"command": "merge", "dev": {"slot_f1": 0.5}}
    record |= {"search": search | {"verdict": "0.9 is better than all others"}}
    rows = rows_of(model_card(Path("m"), {}, record))
    for row in (
        ["slot f1", "0.5000"],
        ["95% interval", "0.4100 to 0.5700"],
        ["on", "own: en, cy"],
        ["verdict", "0.9 is better than all others"],
    ):
        assert row in rows, row


@pytest.mark.parametrize(
    ("targets", "kind"),
    [
        (["q_proj"], "AutoModelForCausalLM"),
        (["model.language_model.layers.0.self_attn.q_proj"], "AutoModelForImageTextToText"),
        (r".*language_model.*", "AutoModelForCausalLM"),
    ],
)
def test_the_lines_of_use_fit_the_adapter(targets, kind):
    config = {"target_modules": targets, "base_model_name_or_path": "o/base"}
    folder = model_card(Path("/private/task"), config, TRAINED)
    assert f'{kind}.from_pretrained("o/base")' in folder
    assert 'PeftModel.from_pretrained(model, "task")' in folder
    file = model_card(Path("/private/task.safetensors"), config, TRAINED)
    assert "adaptermix merge task.safetensors --weights 1 -o FOLDER" in file
    assert "from_pretrained" not in file
