"""What a command says of its size before it runs, for the plan of a recipe."""

from pathlib import Path

import pytest
from helpers.tables import write_rows
from helpers.training import align_settings, joint_settings, task_settings

from adaptermix.commands.catalog import COMMANDS
from adaptermix.commands.command import Call, Made
from adaptermix.errors import ConfigError
from adaptermix.settings.evaluation import EvalSettings, RetrievalSettings
from adaptermix.settings.merging import SearchSettings

ROWS = {"train": 23, "dev": 7, "test": 5}  # of each language


def no_step(path):
    """Return the step that makes a path: none."""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A task with another number of rows in every split, and fewer in its second language."""
    folder = tmp_path_factory.mktemp("own")
    for lang, less in (("en", 0), ("cy", 2)):
        for split, count in ROWS.items():
            rows = [{"asked": f"say {n}", "answered": "lamp"} for n in range(count - less)]
            write_rows(folder / f"{lang}.{split}.jsonl", rows)
    files = "".join(f'{split} = "{{lang}}.{split}.jsonl"\n' for split in ROWS)
    path = folder / "own.toml"
    path.write_text(
        'name = "own"\nmetrics = ["chrf"]\nprompt = "{asked}"\nanswer = "answered"\n[files]\n'
        + files
    )
    return {"task": str(path), "data_dir": folder, "langs": ("en", "cy")}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Tables of pairs, of two sizes."""
    folder = tmp_path_factory.mktemp("pairs")
    for lang, count in (("cy", 40), ("sw", 30)):
        rows = [{lang: f"{lang} {n}", "en": f"en {n}"} for n in range(count)]
        write_rows(folder / f"{lang}-en.csv", rows)
    return folder


def counted(name, settings, inputs=()):
    """Return a command's examples and size, from its settings alone."""
    command = COMMANDS[name]
    examples = command.examples(settings)
    return examples, command.size(Call(settings, inputs), examples)


def steps(settings, rows):
    return -(-rows // settings.batch_size)


def test_a_language_that_is_named_twice_is_told_before_data_is_read():
    with pytest.raises(ConfigError, match="--langs: cy and Welsh are the same language"):
        COMMANDS["eval"].examples(EvalSettings(langs=("cy", "Welsh")))


@pytest.mark.parametrize(("limit", "expected"), [(None, (23, 21)), (22, (22, 21)), (4, (4, 4))])
def test_a_task_training_counts_its_training_rows(own, limit, expected):
    settings = task_settings("m", None, "x", **own, limit=limit, max_steps=None, epochs=1)
    rows = dict(zip(("en", "cy"), expected, strict=True))
    assert counted("train-task", settings) == (
        rows,
        {"planned_steps": steps(settings, sum(expected))},
    )


@pytest.mark.parametrize("command", ["train-task", "train-joint"])
def test_a_task_training_without_dev_data_is_told_of(tmp_path, own, pairs, command):
    for path in own["data_dir"].glob("*.train.jsonl"):
        (tmp_path / path.name).write_text(path.read_text())
    kept = Path(own["task"])
    (tmp_path / kept.name).write_text(kept.read_text())
    make = {"train-task": task_settings, "train-joint": joint_settings}[command]
    changes = own | {"task": str(tmp_path / kept.name), "data_dir": tmp_path}
    if command == "train-joint":
        changes |= {"pairs_dir": pairs}
    with pytest.raises(Exception, match=r"dev\.jsonl|no .*dev"):
        counted(command, make("m", None, "x", **changes))


@pytest.mark.parametrize(("limit", "expected"), [(None, (40, 30)), (35, (35, 30)), (6, (6, 6))])
def test_an_alignment_repeats_every_language_up_to_the_largest(own, pairs, limit, expected):
    settings = align_settings(
        "m",
        own["data_dir"],  # it has no pairs
        "x",
        pairs=("cy-en", "sw-en"),
        pairs_dir=pairs,
        limit=limit,
        **{"max_steps": None, "epochs": 1, "batch_size": 4, "contrastive_batch": 4},
    )
    assert counted("train-align", settings) == (
        dict(zip(("cy-en", "sw-en"), expected, strict=True)),
        {"planned_steps": steps(settings, 2 * expected[0])},
    )
    several = settings.model_copy(update={"temperature": (0.1, 0.2, 0.3)})
    assert counted("train-align", several)[1] == {
        "planned_steps": 3 * steps(settings, 2 * expected[0])
    }


def test_pairs_are_counted_in_columns_of_other_names(tmp_path):
    rows = [{"left": f"cy {n}", "right": f"en {n}"} for n in range(9)]
    place = write_rows(tmp_path / "pairs.csv", rows)
    columns = {"cy": "left", "en": "right"}
    settings = align_settings("m", None, "x", pairs_dir=place, pairs_columns=columns)
    assert counted("train-align", settings)[0] == {"cy-en": 9}


def test_a_joint_training_counts_both_and_plans_by_its_task(own, pairs):
    settings = joint_settings(
        "m", None, "x", **own, pairs_dir=pairs, max_steps=None, epochs=1, batch_size=8
    )
    examples, size = counted("train-joint", settings)
    assert examples == {"cy-en": 40, "en": 23, "cy": 21}
    assert size == {"planned_steps": steps(settings, 2 * (23 + 21))}


def test_where_task_and_pairs_have_the_same_names_the_task_is_counted(own, pairs):
    """As in translation."""
    task = Path(own["task"])
    names = {"cy-en": "en"}
    for split in ROWS:
        text = (own["data_dir"] / f"en.{split}.jsonl").read_text()
        for name in names:
            (own["data_dir"] / f"{name}.{split}.jsonl").write_text(text)
    settings = joint_settings(
        "m", None, "x", **own | {"task": str(task), "langs": ("cy-en",)}, pairs_dir=pairs
    )
    examples, _ = counted("train-joint", settings)
    assert examples == {"cy-en": 23}


@pytest.mark.parametrize("split", ["test", "dev"])
@pytest.mark.parametrize("exclude_base", [False, True])
def test_an_evaluation_counts_its_split_and_its_systems(own, split, exclude_base):
    for limit in (None, 4):
        settings = EvalSettings(
            **own, split=split, limit=limit, adapters=("a", "b"), exclude_base=exclude_base
        )
        examples, size = counted("eval", settings)
        rows = {"en": ROWS[split], "cy": ROWS[split] - 2}
        assert examples == {lang: min(count, limit or count) for lang, count in rows.items()}
        assert size == {"systems": 2 if exclude_base else 3}


@pytest.mark.parametrize("per_language", [False, True])
def test_a_search_counts_dev_rows_and_candidates(own, per_language):
    settings = SearchSettings(
        **own, search="0.5,0.7", limit=6, per_language=per_language, out=Path("new")
    )
    inputs = [Path("task.v2"), Path("align.safetensors")]
    examples, size = counted("merge", settings, inputs)
    assert examples == {"en": 6, "cy": 5}
    alone = ["task.v2"] if per_language else ["task.v2 alone", "align alone"]
    names = size["candidates"]
    assert len(names) == len(set(names)) == 2 + len(alone)
    assert {*alone} < {*names}
    whole = settings.model_copy(update={"limit": None})
    assert counted("merge", whole, inputs)[0] == {"en": 7, "cy": 5}


def test_options_of_another_search_are_noted():
    remark = COMMANDS["merge"].remark
    langs = {"langs": ("en",)}
    for search, other in (("0.5,0.7", "auto"), ("learn", "auto"), ("auto", "learn")):
        option = {"auto": "trials", "learn": "learn_lr"}[other]
        told = remark(SearchSettings(search=search, **{option: 3}, **langs))
        assert told == f"note: --{option.replace('_', '-')} has no effect without --search {other}"
    fitting = ({"search": "auto", "trials": 3}, {"search": "learn", "learn_lr": 1}, {"weight": 1})
    assert [remark(SearchSettings(**given, **langs)) for given in fitting] == [None] * 3


def test_a_plain_merge_counts_nothing(own):
    settings = SearchSettings(**own, weight=0.5)
    assert counted("merge", settings, [Path("a"), Path("b")]) == ({}, {})


def test_a_measurement_of_retrieval_counts_sentences(tmp_path):
    for lang in ("en", "cy"):
        (tmp_path / f"{lang}.txt").write_text("".join(f"{lang} {n}\n" for n in range(9)))
    for limit, count in ((None, 9), (4, 4)):
        settings = RetrievalSettings(data_dir=tmp_path, langs=("en", "cy"), limit=limit)
        assert counted("retrieval", settings)[0] == {"en": count, "cy": count}


def test_weights_in_a_file_are_checked_before_the_adapters_exist(tmp_path):
    """A file that an earlier step will write is not there yet."""
    path = tmp_path / "weights.toml"
    call = Call(SearchSettings(weights_file=path), [Path("a"), Path("b")])
    COMMANDS["merge"].check(call, no_step)
    path.write_text("default = [0.5]\n")
    with pytest.raises(Exception, match="weights"):
        COMMANDS["merge"].check(call, no_step)
    # What an earlier run left is written anew by its step.
    COMMANDS["merge"].check(call, lambda path: Made("search", "merge", None))
