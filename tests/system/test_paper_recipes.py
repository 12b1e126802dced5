"""Every recipe of the paper runs: as it stands, on a tiny model, with small slices of data."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest
from helpers.models import save_model
from transformers import AutoConfig

from adaptermix.commands.catalog import COMMANDS
from adaptermix.data.languages import FLORES_CODES
from adaptermix.recipes.plan import plan
from adaptermix.recipes.recipe import read_recipe
from adaptermix.recipes.run import run
from adaptermix.recipes.step import Overrides
from adaptermix.tasks.massive import MASSIVE_LOCALES

FOLDER = Path(__file__).parent.parent.parent / "examples" / "paper"
NAMES = sorted(path.stem for path in FOLDER.glob("*.toml") if path.stem != "common")
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
WORDS = "red blue green white black grey pink gold dark pale lime teal".split()


def test_every_table_and_figure_has_its_recipe():
    tables = {f"table-{number}" for number in (2, 3, 4, 5, 6, 7, 8, 10, 11)}
    assert set(NAMES) == tables | {"figure-1", "figure-3", "figure-4"}


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
    for code in ("cs", "de", "is", "ru", "zh", "he", "ja", "uk"):
        for pair in (f"{code}-en", f"en-{code}"):
            for side in ("src", "ref"):
                lines(folder / "wmt" / f"{pair}.{side}", WORDS)
    for code in ("en", "pt", "zh", "da", "hr", "sk", "sr", "sv"):
        for split in ("train", "dev", "test"):
            rows = [f"# sent_id = {w}\n1\tin\tO\n2\t{w}\tB-LOC\n" for w in WORDS]
            lines(folder / "uner" / f"{code}.{split}.iob2", rows)


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
    """Read a recipe for a trial; skip it where it needs a command that is not there."""
    tables = tomllib.loads((paper / "common.toml").read_text())
    tables |= tomllib.loads((paper / f"{name}.toml").read_text())
    known = COMMANDS.keys()
    wanted = [step for step in tables if isinstance(tables[step], dict)]
    own = tomllib.loads((paper / f"{name}.toml").read_text())
    reached: set[str] = set()

    def reach(step):
        reached.add(step)
        for value in tables[step].values():
            for item in value if isinstance(value, list) else [value]:
                if isinstance(item, str) and item.startswith("@") and item[1:] in wanted:
                    reach(item[1:])

    for step in own:
        if isinstance(own[step], dict):
            reach(step)
    missing = {tables[step]["command"] for step in reached} - known
    if missing:
        pytest.skip(f"no command {', '.join(sorted(missing))}")
    values = {
        "model": str(model),
        "engine": "transformers",
        "max-new-tokens": 2,
        "prompt": "paper",  # a tenth of the tokens of the authors' own
        "max-steps": 1,
    }
    return read_recipe(paper / f"{name}.toml", overrides=Overrides(values, limit=2))


@pytest.mark.parametrize("name", NAMES)
def test_a_recipe_runs_on_a_tiny_model(paper, tiny, name):
    """One after the other, in one folder: what two of them need is made once."""
    recipe = opened(paper, name, tiny)
    planned = plan(recipe)
    assert not planned.problems
    report = run(recipe)
    assert [step.name for step in report.steps] == [step.name for step in planned.steps]
    for step in recipe.steps:
        assert step.out.exists()
    finished = {step.name for step in planned.steps if step.status == "finished"}
    before = {step.name for step in report.steps if step.status == "done before"}
    assert finished <= before
