"""What comes with the package: the corpus, its parallelism and splits, the model."""

import json
from pathlib import Path

import pytest

import adaptermix
from adaptermix.commands.settings_file import load_settings
from adaptermix.data.pairs import read_pairs
from adaptermix.models.loading import load_model, load_tokenizer
from adaptermix.settings.evaluation import EvalSettings
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.training import TrainAlignSettings, TrainTaskSettings
from adaptermix.tasks.massive import read_massive
from adaptermix.tasks.slots import slots_of, without_marks

DATA = Path(adaptermix.__file__).parent / "demo_data"
CORPUS = DATA / "corpus"
FAMILIES = {
    "Indo-European": ["en", "de", "es", "ru", "cy"],
    "Niger-Congo": ["sw"],
    "Turkic": ["tr"],
    "Austronesian": ["id"],
}
LANGS = [lang for langs in FAMILIES.values() for lang in langs]
SPLITS = ("train", "dev", "test")


@pytest.fixture(scope="module")
def rows():
    return {(lang, split): read_massive(lang, split, CORPUS) for lang in LANGS for split in SPLITS}


def test_the_corpus_is_parallel_and_its_marks_fit(rows):
    for split in SPLITS:
        ids = {tuple(example.id for example in rows[lang, split]) for lang in LANGS}
        assert len(ids) == 1
    for examples in rows.values():
        for example in examples:
            assert without_marks(example.annotated) == example.utterance


def test_there_are_at_least_twelve_slot_types_in_every_language(rows):
    for lang in LANGS:
        found = {slot.type for e in rows[lang, "test"] for slot in slots_of(e.annotated)}
        assert len(found) >= 12


def test_no_utterance_is_in_two_parts_or_in_the_pairs(rows):
    for lang in LANGS:
        parts = [{example.utterance for example in rows[lang, split]} for split in SPLITS]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]
        if lang != "en":
            sentences = {pair.source for pair in read_pairs(f"{lang}-en", CORPUS)}
            assert not sentences & (parts[1] | parts[2])


def test_one_language_is_not_in_latin_script(rows):
    text = "".join(example.utterance for example in rows["ru", "test"])
    assert sum("а" <= letter <= "я" for letter in text) > 0.7 * len(text.replace(" ", ""))


def test_the_model_is_small_whole_and_loads():
    assert (DATA / "base" / "model.safetensors").stat().st_size <= 6_000_000
    settings = load_settings(TrainTaskSettings, {}, DATA / "adaptermix.toml")
    assert load_model(Path(settings.model), settings).config.num_hidden_layers == 8
    assert load_tokenizer(Path(settings.model), settings).chat_template
    record = json.loads((DATA / "base" / "pretraining.json").read_text())
    assert record["copy_sentence_tokens"] > 0.95


@pytest.mark.parametrize(
    "path",
    [
        DATA / "adaptermix.toml",
        Path(__file__).parents[1] / "examples" / "voice" / "adaptermix.toml",
    ],
)
def test_settings_files_are_valid_for_every_command(path):
    for kind in (TrainTaskSettings, TrainAlignSettings, MergeSettings, EvalSettings):
        settings = load_settings(kind, {}, path)
        if not isinstance(settings, MergeSettings):
            assert Path(settings.model).is_dir()
            assert settings.data_dir.is_dir()
