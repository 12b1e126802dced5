"""Model cards: what they tell of an adapter, and what they keep to themselves."""

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


def test_a_card_beside_a_file_is_replaced_only_by_force(tmp_path):
    write(tmp_path / "task.safetensors", TRAINED)
    card = tmp_path / "task.README.md"
    card.write_text("mine")
    (tmp_path / "task.safetensors").unlink()
    sources = [write(tmp_path / "a", TRAINED), write(tmp_path / "b", ALIGNED, seed=1)]
    settings = MergeSettings(weight=0.5, out=tmp_path / "task.safetensors")
    merge(sources, settings)
    assert card.read_text() == "mine"
    merge(sources, settings, force=True)
    assert "exact merge" in card.read_text()


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
