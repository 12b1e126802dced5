"""Every recipe of the paper runs: as it stands, on a tiny model, with small slices of data."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pyarrow
import pytest
from helpers.models import make_tokenizer, save_model
from pyarrow import parquet
from transformers import AutoConfig

from adaptermix.data.languages import FLORES_CODES
from adaptermix.generation.prompts import PromptEncoder
from adaptermix.recipes.plan import plan
from adaptermix.recipes.recipe import read_recipe
from adaptermix.recipes.run import Unwatched, run
from adaptermix.recipes.step import Overrides
from adaptermix.tasks.massive import MASSIVE_LOCALES

FOLDER = Path(__file__).parent.parent.parent / "examples" / "paper"
NAMES = sorted(path.stem for path in FOLDER.glob("*-*.toml"))
# A word of each script that sentences to align must be in; other languages get their code.
NATIVE = {
    "ar": "أحمر أحمر",
    "el": "κόκκινο",
    "hi": "लाल लाल लाल",
    "ja": "赤い赤い赤い赤い",
    "ru": "красный",
    "th": "สีแดงสีแดง",
    "zh": "红色红色红色红色",
}
ENTITY = '"Results": [{"TypeName": "LOC", "Text": "WORD", "Start": 3, "End": 7}]'
WORDS = "red blue green white black grey pink gold dark pale lime teal".split()


def test_the_readme_has_the_costs_that_the_shapes_have():
    """A block of Llama 3 8B has 218,103,808 weights; LoRA on it 655,360, as the paper counts."""
    spec = importlib.util.spec_from_file_location("costs", FOLDER / "costs.py")
    costs = importlib.util.module_from_spec(spec)
    sys.modules["costs"] = costs
    spec.loader.exec_module(costs)
    assert costs.table() in (FOLDER / "README.md").read_text()
    assert (costs.LLAMA.block, costs.LLAMA.head) == (218_103_808, 525_336_576)
    assert costs.LLAMA.trained(1, blocks=16) == 13_958_643_712
    assert costs.QWEN.block == 233_046_016


def test_the_second_bos_of_the_authors_scripts_can_be_had():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (FOLDER / "two-bos.jinja").read_text()
    encoder = PromptEncoder(tokenizer)
    asked = [{"role": "system", "content": "a"}, {"role": "user", "content": " b "}]
    assert encoder.prompt_text(asked) == (
        "<|bos|><|bos|><|start_header_id|>system<|end_header_id|>\n\na<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nb<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert encoder.prompt_ids(asked)[:3].count(tokenizer.bos_token_id) == 2


def test_every_table_and_figure_has_its_recipe():
    tables = {f"table-{number}" for number in (2, 3, 4, 5, 6, 7, 8, 10, 11)}
    assert set(NAMES) == tables | {"figure-1", "figure-3", "figure-4", "table-11-wmt22"}


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


def write_data(folder):
    """Write a few rows of everything the recipes read, where they look for it."""
    for locale in MASSIVE_LOCALES:
        rows = [
            {
                "id": str(number),
                "locale": locale,
                "partition": ("train", "dev", "test")[number % 3],
                "utt": f"lamp {word}",
                "annot_utt": f"lamp [color_type : {word}]",
            }
            for number, word in enumerate(WORDS)
        ]
        lines(folder / "massive" / f"{locale}.jsonl", map(json.dumps, rows))
    for code, flores in FLORES_CODES.items():
        lines(folder / "flores200" / "dev" / f"{flores}.dev", [f"{code} {word}" for word in WORDS])
        pairs = [f"{NATIVE.get(code, code)} {word}\t{word}" for word in WORDS]
        lines(folder / "tatoeba" / f"{code}-en.tsv", pairs)
    lines(folder / "iwslt2017" / "de-en.tsv", [f"die {word}\tthe {word}" for word in WORDS])
    for code in ("cs", "de", "is", "ru", "zh"):
        native = NATIVE.get(code, code)
        rows = [{"translation": {code: f"{native} {word}", "en": word}} for word in WORDS]
        lines(folder / "alma" / f"{code}-en.train.json", map(json.dumps, rows))
        for pair in (f"{code}-en", f"en-{code}"):
            lines(folder / "alma" / f"{pair}.test.json", map(json.dumps, rows))
    for code in ("cs", "de", "is", "ru", "zh", "he", "ja", "uk"):
        for pair in (f"{code}-en", f"en-{code}"):
            for side in ("src", "ref"):
                lines(folder / "wmt" / f"{pair}.{side}", WORDS)
    langs = ("eng", "por", "zho", "dan", "hrv", "slk", "srp", "swe")
    (folder / "uner-aya").mkdir()
    for split in ("train", "validation", "test"):
        asked = [(lang, word) for lang in langs for word in WORDS]
        columns = {
            "inputs": [f"{lang}: who is named? in {word}" for lang, word in asked],
            "targets": [ENTITY.replace("WORD", word) for _, word in asked],
            "language": [lang for lang, _ in asked],
        }
        path = folder / "uner-aya" / f"{split}-00000-of-00001.parquet"
        parquet.write_table(pyarrow.table(columns), path)


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """The recipes beside their data, as a user has them."""
    folder = tmp_path_factory.mktemp("paper")
    for path in FOLDER.glob("*.toml"):
        shutil.copy(path, folder)
    write_data(folder / "data")
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A model of four blocks that reads a prompt of named entities."""
    folder = save_model(tmp_path_factory.mktemp("models") / "tiny")
    config = AutoConfig.from_pretrained(folder)
    config.max_position_embeddings = 2048
    config.save_pretrained(folder)
    return folder


def opened(paper, name, model):
    """Read a recipe for a trial."""
    values = {
        "model": str(model),
        "engine": "transformers",
        "max-new-tokens": 2,
        "prompt": "paper",  # a tenth of the tokens of the authors' own
        "max-steps": 1,
        "target-modules": "q_proj",  # no recipe has modules of its own
        "layers": "0,2,4",  # of 5: pairs times layers are most of the time
        "seeds": "1,2" if name == "table-8" else "1",
    }
    return read_recipe(paper / f"{name}.toml", overrides=Overrides(values, limit=2))


class Reports(Unwatched):
    """What reports have of the paper's numbers."""

    def __init__(self):
        self.pages = {}

    def end(self, step, report):
        if step.command.name == "report":
            self.pages[step.name] = {(c.table, c.system, c.over) for c in report.published}


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs_on_a_tiny_model(paper, tiny, name):
    """One after the other, in one folder: what two of them need is made once."""
    recipe = opened(paper, name, tiny)
    planned = plan(recipe)
    assert not planned.problems
    watcher = Reports()
    report = run(recipe, watcher=watcher)
    assert [step.name for step in report.steps] == [step.name for step in planned.steps]
    for step in recipe.steps:
        assert step.out.exists()
    finished = {step.name for step in planned.steps if step.status == "finished"}
    before = {step.name for step in report.steps if step.status == "done before"}
    assert finished <= before
    if name.startswith("table"):  # every report has numbers of the paper beside its own
        assert watcher.pages.keys() == {s.name for s in recipe.steps if s.command.name == "report"}
        assert all(cells for page, cells in watcher.pages.items()), watcher.pages
