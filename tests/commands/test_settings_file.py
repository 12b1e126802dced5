from pathlib import Path

import pytest
from typer.testing import CliRunner

from adaptermix.cli.main import program
from adaptermix.commands.settings_file import load_settings, placing_errors
from adaptermix.errors import ArtifactError, ConfigError
from adaptermix.settings.evaluation import EvalSettings, RetrievalSettings
from adaptermix.settings.merging import MergeSettings, SearchSettings
from adaptermix.settings.shared import VLLM_OPTIONS
from adaptermix.settings.training import (
    TrainAlignSettings,
    TrainJointSettings,
    TrainTaskSettings,
)


def write(folder, text):
    path = folder / "adaptermix.toml"
    path.write_text(text)
    return path


def test_defaults_are_the_papers():
    task = load_settings(TrainTaskSettings, {})
    assert (task.rank, task.alpha, task.dropout, task.lr) == (8, 16.0, 0.1, 5e-4)
    assert (task.schedule, task.warmup_ratio, task.batch_size) == ("inverse_sqrt", 0.03, 128)
    assert (task.epochs, task.eval_steps, task.patience) == (5.0, 200, 5)
    assert len(task.target_modules) == 7
    assert task.model == "meta-llama/Meta-Llama-3-8B-Instruct"
    align = load_settings(TrainAlignSettings, {})
    assert (align.temperature, align.contrastive_batch, align.layer) == ((0.1,), 32, "middle")


def test_flags_override_the_file_which_overrides_defaults(tmp_path):
    path = write(tmp_path, 'dtype = "float16"\n[train-task]\nrank = 4\nlr = 1e-3\n')
    settings = load_settings(TrainTaskSettings, {"rank": 2}, path)
    assert (settings.rank, settings.lr, settings.dtype, settings.alpha) == (2, 1e-3, "float16", 16)


def test_paths_in_the_file_are_relative_to_it(tmp_path):
    (tmp_path / "base").mkdir()
    path = write(tmp_path, 'model = "base"\ndata-dir = "data"\n[eval]\nadapters = ["a"]\n')
    settings = load_settings(EvalSettings, {}, path)
    assert settings.model == str(tmp_path / "base")
    assert settings.data_dir == tmp_path / "data"
    assert settings.adapters == (str(tmp_path / "a"),)


def test_adapters_as_text_are_relative_to_the_file_too(tmp_path):
    for name in ("a.safetensors", "b,c"):
        (tmp_path / name).mkdir()
    texts = {"a.safetensors, ./gone": ("a.safetensors", "gone"), "b,c": ("b,c",)}
    for text, names in texts.items():
        path = write(tmp_path, f'[eval]\nadapters = "{text}"\n[train-align]\non = "{text}=0.5"\n')
        here = tuple(str(tmp_path / name) for name in names)
        assert load_settings(EvalSettings, {}, path).adapters == here
        on = load_settings(TrainAlignSettings, {}, path).on
        assert on == (*here[:-1], f"{here[-1]}=0.5")


def test_a_missing_path_beside_the_file_is_no_name_on_the_hub(tmp_path, monkeypatch):
    """pathlib drops the ./ of a path."""
    monkeypatch.chdir(tmp_path)
    text = 'model = "./x/y"\n[eval]\nadapters = ["./x/y"]\n[train-task]\nchat = "x/y"\n'
    Path("adaptermix.toml").write_text(text)
    missing = str(tmp_path / "x" / "y")
    settings = load_settings(EvalSettings, {})
    assert (settings.model, settings.adapters) == (missing, (missing,))
    assert str(load_settings(TrainTaskSettings, {}).chat) == missing


def test_inputs_are_the_files_and_folders_that_settings_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "b=1").mkdir()
    training = {"model": "base", "pairs": "cy-en", "pairs_dir": "pairs:cy", "out": "out"}
    settings = TrainJointSettings(**training, on="a=0.5,b=1", chat="chats:train")
    assert {*map(str, settings.inputs())} == {
        *("base", "pairs:cy", "pairs", "a", "b=1"),
        *("chats:train", "chats"),
    }
    tested = {"model": "owner/name", "adapters": ["a", "owner/other"]}
    named = {"owner/name", "a", "owner/other"}
    for task, more in (("massive", set()), ("own.toml", {"own.toml"})):
        found = {*map(str, EvalSettings(**tested, task=task).inputs())}
        assert found - {"Unbabel/wmt22-comet-da"} == named | more


def test_data_in_the_file_is_on_the_hub_with_a_colon_or_a_revision(tmp_path):
    path = tmp_path / "adaptermix.toml"
    (tmp_path / "here").mkdir()
    names = {
        "o/n": "DIR/o/n",
        "o/n:train": "o/n:train",
        "o/n@main": "o/n@main",
        "here/n:train": "DIR/here/n:train",
        "here::train": "DIR/here::train",
        "a.csv": "DIR/a.csv",
    }
    for written, expected in names.items():
        path.write_text(
            f'[train-task]\nchat = "{written}"\ncolumns = {{prompt = "a, b"}}\n', encoding="utf-8"
        )
        settings = load_settings(TrainTaskSettings, {}, path)
        assert str(settings.chat) == expected.replace("DIR", str(tmp_path))
        assert settings.columns == {"prompt": "a, b"}


def test_hub_names_of_adapters_are_not_relative_to_the_file(tmp_path):
    (tmp_path / "runs" / "task").mkdir(parents=True)
    names = ["runs/task", "somebody/lora", "runs/new.safetensors", "../task"]
    path = write(tmp_path, f"[eval]\nadapters = {names}\n")
    found = load_settings(EvalSettings, {}, path).adapters
    here = [str(tmp_path / name) for name in names]
    assert found == (here[0], "somebody/lora", here[2], here[3])


def test_a_section_concerns_only_its_command(tmp_path):
    path = write(tmp_path, 'model = "m"\n[train-task]\nrank = 4\n[merge]\nweight = 0.5\n')
    assert load_settings(TrainAlignSettings, {}, path).rank == 8
    assert load_settings(MergeSettings, {}, path).weight == 0.5


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    path = write(tmp_path, "\ufeff[merge]\nweight = 0.5\n")
    assert load_settings(MergeSettings, {}, path).weight == 0.5


def test_an_unknown_key_is_told_the_nearest(tmp_path):
    for text, hint in (
        ("[merge]\nwieght = 1\n", "did you mean weight?"),
        ("qq = 1", "the keys are"),
    ):
        with pytest.raises(ConfigError) as caught:
            load_settings(MergeSettings, {}, write(tmp_path, text))
        assert caught.value.hint.startswith(hint)


def test_servers_on_the_command_line_replace_the_engine_in_the_file_and_the_reverse(tmp_path):
    path = tmp_path / "adaptermix.toml"
    path.write_text('[eval]\nengine = "vllm"\ntensor-parallel-size = 2\n')
    assert load_settings(EvalSettings, {"server": "http://h"}, path).engine == "auto"
    path.write_text('[eval]\nserver = ["http://h"]\n')
    assert load_settings(EvalSettings, {}, path).server == ("http://h/v1",)
    assert load_settings(EvalSettings, {"engine": "transformers"}, path).server == ()


def test_options_of_other_tasks_in_the_file_do_not_concern_tasks_of_lm_eval(tmp_path):
    path = write(tmp_path, 'data-dir = "data"\n[eval]\nlangs = ["cy"]\nlimit = 5\n')
    settings = load_settings(EvalSettings, {"task": "lm-eval:a,b"}, path)
    assert (settings.langs, settings.limit, settings.data_dir) == (("a", "b"), 5, None)
    with pytest.raises(ConfigError, match="--langs does not apply"):
        load_settings(EvalSettings, {"task": "lm-eval:a", "langs": "cy"}, path)
    path = write(tmp_path, '[eval]\nengine = "vllm"\ntensor-parallel-size = 2\n')
    assert load_settings(EvalSettings, {"task": "lm-eval:a"}, path).engine == "transformers"
    path = write(tmp_path, '[eval]\nserver = "http://a:1"\n')
    assert load_settings(EvalSettings, {"task": "lm-eval:a"}, path).server == ()
    path = write(tmp_path, 'data-dir = "data"\n[eval]\ntask = "lm-eval:a"\n')
    assert load_settings(EvalSettings, {}, path).langs == ("a",)
    path = write(tmp_path, '[eval]\ntask = "lm-eval:a"\nlangs = ["cy"]\n')
    with pytest.raises(ConfigError, match="--langs does not apply"):
        load_settings(EvalSettings, {}, path)


def test_a_search_takes_tasks_of_lm_eval_and_their_folder_from_the_tests(tmp_path):
    tests = 'data-dir = "data"\n[eval]\nlm-eval-path = "tasks"\n'
    searched = {"search": "0.5,0.7"}
    path = write(tmp_path, f'{tests}task = "lm-eval:a"\nlimit = 9\n[merge]\nout = "m"\n')
    settings = load_settings(SearchSettings, searched, path)
    assert (settings.langs, settings.lm_eval_path) == (("a",), tmp_path / "tasks")
    assert (settings.limit, settings.data_dir, settings.out) == (None, None, tmp_path / "m")
    other = load_settings(SearchSettings, searched | {"task": "massive"}, path)
    assert (other.task, other.lm_eval_path) == ("massive", None)
    assert load_settings(EvalSettings, {"task": "massive"}, path).lm_eval_path is None
    path = write(tmp_path, f"{tests}[merge]\nseed = 2\n")
    assert load_settings(SearchSettings, searched, path).lm_eval_path is None
    settings = load_settings(SearchSettings, searched | {"task": "lm-eval:b"}, path)
    assert (settings.langs, settings.lm_eval_path) == (("b",), tmp_path / "tasks")
    path = write(tmp_path, '[eval]\nlangs = ["cy"]\n[merge]\ntask = "lm-eval:b"\n')
    assert load_settings(SearchSettings, searched, path).langs == ("b",)


def test_a_weight_on_the_command_line_replaces_weights_in_the_file(tmp_path):
    path = write(tmp_path, "[merge]\nweights = [0.5, 0.5]\n")
    assert load_settings(MergeSettings, {"weight": 0.9}, path).weights is None


def test_commas_separate_names_and_numbers():
    assert load_settings(TrainAlignSettings, {"pairs": "cy-en, sw-en"}).pairs == ("cy-en", "sw-en")
    assert load_settings(MergeSettings, {"weights": "0.8,0.1,0.1"}).weights == (0.8, 0.1, 0.1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n\n[train-task]\nrank = 4\nrnk = 4\n", r"toml:5: unknown key 'rnk' in \[train-task\]"),
        ("model = 'm'\nseed = 3\n", r"toml:2: unknown top-level key 'seed'"),
        ("[train]\n", r"toml:1: unknown section \[train\]"),
        ("\n[eval\n", "toml:2: not valid TOML"),
        ("a = [1,\n", "toml:1: not valid TOML"),
        ("\n[train-task]\nrank = 'big'\n", r"toml:3: rank: .*'big'"),
        ("\n[train-task]\nrank = 0\n", r"toml:3: rank: .*greater than 0"),
        ("dtype = 'int8'\n", r"toml:1: dtype"),
    ],
)
def test_mistakes_in_the_file_are_named_with_the_line(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_settings(TrainTaskSettings, {}, write(tmp_path, text))


def test_a_mistake_in_a_section_that_a_search_takes_over_is_named_with_its_line(tmp_path):
    path = write(tmp_path, '[merge]\nsearch = "auto"\n[eval]\nbatch-size = 0\n')
    with pytest.raises(ConfigError, match=r"adaptermix.toml:4: batch-size: must be greater"):
        load_settings(SearchSettings, {}, path)
    path = write(tmp_path, "\n[eval]\nbatch-size = 2\n[merge]\nbatch-size = 0\n")
    with pytest.raises(ConfigError, match=r"adaptermix.toml:5: batch-size: must be greater"):
        load_settings(SearchSettings, {"search": "auto"}, path)


@pytest.mark.parametrize(
    ("kind", "flags", "message"),
    [
        (TrainTaskSettings, {"rank": 0}, "--rank: must be greater than 0, not 0"),
        (TrainAlignSettings, {"pairs": ","}, "--pairs"),
        (TrainAlignSettings, {"pairs": "cy-en,cy-en"}, "--pairs: 'cy-en' is listed twice"),
        (RetrievalSettings, {"langs": "cy"}, "--langs: expected at least 2"),
        (RetrievalSettings, {"layers": "8-2"}, "--layers: expected blocks such as 0-15,20"),
        (MergeSettings, {}, "give exactly one of --weight W, --weights"),
        (
            MergeSettings,
            {"weight": 0.5, "weights": "1,2"},
            "give exactly one of --weight W, --weights",
        ),
        (MergeSettings, {"weights": "1,x"}, "--weights"),
        (MergeSettings, {"weights": "1,,1"}, "--weights: must be a number"),
        (TrainAlignSettings, {"temperature": "0.1,"}, "--temperature: must be a number"),
        (MergeSettings, {"weight": float("nan")}, "--weight: must be a finite number"),
        (MergeSettings, {"weight": 1, "seed": 2**32}, "--seed: must be a whole number from 0 to 2"),
        (TrainTaskSettings, {"seed": 2**32}, "--seed: must be a whole number from 0 to 2"),
        (TrainTaskSettings, {"seed": -1}, "--seed: must be 0 or greater"),
    ],
)
def test_mistakes_in_flags_are_named(kind, flags, message):
    with pytest.raises(ConfigError, match=message):
        load_settings(kind, flags)


def test_a_named_file_must_exist(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        load_settings(TrainTaskSettings, {}, Path("nowhere.toml"))
    with pytest.raises(ConfigError, match="a folder, not a file"):
        load_settings(TrainTaskSettings, {}, tmp_path)


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("seed=1,quantization=fp8", {"seed": 1, "quantization": "fp8"}),
        ('{"max-num-seqs": 8}', {"max_num_seqs": 8}),
        ("--enable-prefix-caching=false, swap=0.5", {"enable_prefix_caching": False, "swap": 0.5}),
        ("", {}),
    ],
)
def test_engine_arguments_are_json_or_pairs(text, arguments):
    assert load_settings(EvalSettings, {"engine_args": text}).engine_args == arguments


def test_groups_are_named_lists_of_languages(tmp_path):
    said = load_settings(EvalSettings, {"groups": "ours=cy, sw; other=ja"})
    path = write(tmp_path, '[eval]\ngroups = { ours = ["cy", "sw"], other = ["ja"] }\n')
    assert said.groups == {"ours": ("cy", "sw"), "other": ("ja",)}
    assert load_settings(EvalSettings, {}, path).groups == said.groups


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"engine_args": "seed"}, "expected a JSON object or key=value"),
        ({"engine_args": '{"seed": '}, "--engine-args: "),
        ({"groups": "cy,sw"}, "name=lang,lang;name=lang"),
        ({"groups": "a=cy,cy"}, "'cy' is listed twice"),
        ({"groups": "rest=de;en=en,cy"}, "'en' is the name of a language; give the group another"),
        ({"groups": "macro average=de"}, "'macro average' is the name of the average"),
        ({"exclude_base": True}, "leaves nothing to evaluate"),
    ],
)
def test_engine_and_comparison_settings_are_checked(flags, message):
    with pytest.raises(ConfigError, match=message):
        load_settings(EvalSettings, flags)
    if "name of" in message:
        with pytest.raises(ConfigError, match=message):
            load_settings(RetrievalSettings, flags)


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        (
            "eval a.safetensors",
            "eval: unexpected argument a.safetensors",
            "--adapter a.safetensors",
        ),
        ("train-task --rank x", "--rank: must be a whole number, not 'x'", None),
        ("demo --seed x", "--seed: must be a whole number, not 'x'", None),
        ("eval --engine foo", "--engine: 'foo' is not one of 'auto', 'vllm'", None),
        ("eval --adapter x,x", "--adapter: 'x' is listed twice", None),
        ("merge a b c --search 0.5,0.7", "works for two adapters, not 3", "0.6:0.2:0.2"),
        ("merge a b --search 0.5,1.5", "1.5 is not between 0 and 1", "1.5:-0.5"),
    ],
)
def test_a_wrong_value_on_the_command_line_has_one_exit_code(line, message, hint):
    error = CliRunner().invoke(program(), line.split()).exception
    assert isinstance(error, ConfigError)
    assert message in error.message
    assert "nput" not in error.message and "rror" not in error.message, "pydantic's words"
    assert hint is None or hint in error.hint


def test_adapters_may_stand_in_one_list_and_their_names_may_hold_a_comma(tmp_path):
    (tmp_path / "a,b").mkdir()
    given = ["x,y", str(tmp_path / "a,b"), "z"]
    found = load_settings(EvalSettings, {"adapters": given}).adapters
    assert found == ("x", "y", str(tmp_path / "a,b"), "z")
    assert EvalSettings(adapters=str(tmp_path / "a,b")).adapters == (str(tmp_path / "a,b"),)
    missing = "runs/lr=0.1,seed=2/task.safetensors"  # such as an output of a recipe
    assert EvalSettings(adapters=[missing, "z"]).adapters == (missing, "z")
    assert TrainAlignSettings(on=[f"{missing}=0.5"]).on == (f"{missing}=0.5",)


@pytest.mark.parametrize(
    ("kind", "flags", "message", "place"),
    [
        (EvalSettings, {}, "the model no/model is not a local folder", "1: model: "),
        (EvalSettings, {}, "{folder}/gone: no such file", "4: adapters: "),
        (EvalSettings, {"model": "no/model"}, "the model no/model is not a local folder", None),
        (EvalSettings, {}, "{folder}/there: not an adapter", None),
        (
            SearchSettings,
            {"search": "auto"},
            "{folder}/template: no such file",
            "5: chat-template: ",
        ),
    ],
)
def test_an_error_about_a_missing_path_names_its_line(tmp_path, kind, flags, message, place):
    (tmp_path / "there").touch()
    text = (
        'model = "no/model"\n\n[eval]\nadapters = ["there", "./gone"]\nchat-template = "template"\n'
    )
    path = write(tmp_path, text)
    message = message.format(folder=tmp_path)
    settings = load_settings(kind, flags, path)
    with (
        pytest.raises(ArtifactError) as caught,
        placing_errors(settings, flags, path),
    ):
        raise ArtifactError(message, hint="name another")
    expected = f"{path}:{place}{message}" if place else message
    assert (caught.value.message, caught.value.hint) == (expected, "name another")


PAIRS_OF_WMT = tuple(f"{lang}-en" for lang in ("cs", "de", "is", "ru", "zh"))
PAIRS_OF_WMT += tuple(f"en-{lang}" for lang in ("cs", "de", "is", "ru", "zh"))
TESTED = ("he-en", "ja-en", "uk-en", "en-he", "en-ja", "en-uk")
SEEN, UNSEEN = ("en", "pt", "zh"), ("da", "hr", "sk", "sr", "sv")


@pytest.mark.parametrize(
    ("kind", "task", "expected"),
    [
        (TrainTaskSettings, "wmt23", {"langs": PAIRS_OF_WMT}),
        (TrainJointSettings, "wmt23", {"langs": PAIRS_OF_WMT, "max_new_tokens": 128}),
        (TrainTaskSettings, "uner", {"langs": SEEN}),
        (TrainJointSettings, "uner", {"langs": SEEN}),
        (
            EvalSettings,
            "wmt23",
            {"langs": TESTED, "max_new_tokens": 512, "out": Path("eval-wmt23")},
        ),
        (
            EvalSettings,
            "uner",
            {"langs": SEEN + UNSEEN, "max_new_tokens": 512, "out": Path("eval-uner")},
        ),
        (SearchSettings, "wmt23", {"langs": PAIRS_OF_WMT, "max_new_tokens": 512}),
        (SearchSettings, "uner", {"langs": SEEN + UNSEEN, "max_new_tokens": 512}),
        (SearchSettings, "massive", {"max_new_tokens": 128}),
        (EvalSettings, "massive", {"max_new_tokens": 128, "out": Path("eval-massive")}),
        (EvalSettings, "tasks/own.toml", {"max_new_tokens": 128, "out": Path("eval-own")}),
    ],
)
def test_a_task_has_defaults_of_its_own_which_options_override(kind, task, expected):
    stated = {"task": task} | ({"search": "auto"} if kind is SearchSettings else {})
    settings = load_settings(kind, stated)
    assert {name: getattr(settings, name) for name in expected} == expected
    given = {"langs": ("cy-en",), "max_new_tokens": 7, "out": Path("mine")}
    given = {name: given[name] for name in expected}
    settings = kind(**stated, **given)
    assert {name: getattr(settings, name) for name in expected} == given


SRC = {"task": "wmt23", "langs": "en-de", "src": "a", "ref": ("b",)}
SENTENCES = 'task = "wmt23"\nlangs = ["en-de"]\nsrc = "t.en"\nref = ["t.de"]\n'
FAMILY = {"search": "0.5,0.7", "per_language": True, "out": "family"}


@pytest.mark.parametrize(
    ("kind", "flags", "change", "message"),
    [
        *(
            (kind, SRC | more, change, message)
            for kind, more in ((EvalSettings, {}), (SearchSettings, {"search": "auto"}))
            for change, message in (
                ({"src": None}, "give --src and --ref together"),
                ({"ref": ()}, "give --src and --ref together"),
                ({"task": "massive"}, "--src works with one language pair"),
                ({"langs": "en-de,de-en"}, "--src works with one language pair"),
            )
        ),
        (
            RetrievalSettings,
            {"adapters": ("a",), "exclude_base": True},
            {"scores": "e"},
            "--scores needs the base model",
        ),
        (
            RetrievalSettings,
            {"adapters": ("a",), "exclude_base": True},
            {"adapters": ()},
            "leaves nothing to analyze; add --adapter",
        ),
        (
            MergeSettings,
            {"weight": 0.5, "method": "factor-average"},
            {"isotropic": True},
            "factor-average supports neither --rank nor --isotropic",
        ),
        (
            MergeSettings,
            {"weight": 0.5, "method": "peft-linear"},
            {"rank": 4},
            "peft-linear supports neither --rank nor --isotropic",
        ),
        (
            MergeSettings,
            {"weight": 0.5, "method": "della", "density": 0.1, "epsilon": 0.1},
            {"density": 0.05},
            "--density greater than half of --epsilon",
        ),
        (
            MergeSettings,
            {"weight": 0.5, "method": "dare", "density": 0.05, "epsilon": 0.1},
            {"method": "della"},
            "--density greater than half of --epsilon",
        ),
        (SearchSettings, FAMILY, {"out": "f.safetensors"}, "--per-language writes a folder"),
        (SearchSettings, FAMILY, {"search": "auto"}, "--per-language needs a grid of weights"),
        (SearchSettings, {"search": "learn"}, {"inactive": "keep"}, "do not add up to 1"),
        (SearchSettings, {"inactive": "keep", "search": "auto"}, {"search": "learn"}, "to 1, but"),
        (
            TrainJointSettings,
            {"temperature": "0.1"},
            {"temperature": "0.1,0.5"},
            "only train-align accepts several values",
        ),
        (TrainTaskSettings, {}, {"dev_chat": "d.jsonl"}, "--dev-chat needs --chat"),
        (TrainTaskSettings, {}, {"columns": "prompt=a"}, "--columns needs --chat"),
        (EvalSettings, {}, {"lm_eval_path": "tasks"}, "--lm-eval-path needs --task lm-eval"),
        *(
            (
                EvalSettings,
                {"task": "lm-eval:a"},
                {name: {"seed": 1} if name == "engine_args" else 1},
                f"--{name.replace('_', '-')}: lm-eval tasks run only on the transformers engine",
            )
            for name in sorted(VLLM_OPTIONS)
        ),
        (EvalSettings, {"task": "lm-eval:a"}, {"engine": "vllm"}, "--engine vllm: lm-eval tasks"),
    ],
)
def test_settings_that_contradict_each_other_are_refused_and_others_are_not(
    kind, flags, change, message
):
    assert load_settings(kind, flags)
    with pytest.raises(ConfigError, match=message):
        load_settings(kind, flags | change)


def test_a_family_that_is_folded_into_a_base_may_have_any_name():
    flags = FAMILY | {"out": "f.safetensors", "into": "base"}
    assert load_settings(SearchSettings, flags).per_language


def test_tasks_of_lm_eval_run_on_the_transformers_engine():
    assert load_settings(EvalSettings, {"task": "lm-eval:a"}).engine == "transformers"
    assert load_settings(EvalSettings, {}).engine == "auto"


def test_what_a_file_names_lies_beside_it_if_it_is_there(tmp_path):
    """And is otherwise a name on the Hub. What is typed lies in the current folder."""
    (tmp_path / "reader").mkdir()
    (tmp_path / "comet.ckpt").touch()
    (tmp_path / "base").mkdir()
    text = (
        'model = "base"\ntokenizer = "{reader}"\n[eval]\ntask = "own.toml"\n'
        'comet-model = "{comet}"\nsrc = "a.txt"\nref = ["b.txt"]\nlangs = ["en-de"]\n'
        '[train-align]\non = ["base=0.5", "somebody/lora=2"]\n'
    )
    path = write(
        tmp_path,
        text.format(reader="reader", comet="comet.ckpt").replace(
            'src = "a.txt"\nref = ["b.txt"]\n', ""
        ),
    )
    found = load_settings(EvalSettings, {}, path)
    assert found.task == str(tmp_path / "own.toml")
    assert found.tokenizer == str(tmp_path / "reader")
    assert found.comet_model == str(tmp_path / "comet.ckpt")
    on = load_settings(TrainAlignSettings, {}, path).on
    assert on == (f"{tmp_path / 'base'}=0.5", "somebody/lora=2")
    path = write(
        tmp_path, text.format(reader="some/reader", comet="some/comet").replace("own.toml", "wmt23")
    )
    found = load_settings(EvalSettings, {}, path)
    assert (found.tokenizer, found.comet_model) == ("some/reader", "some/comet")
    assert (found.src, found.ref) == (tmp_path / "a.txt", (tmp_path / "b.txt",))
    typed = load_settings(EvalSettings, {"tokenizer": "reader", "task": "own.toml"}, None)
    assert (typed.tokenizer, typed.task) == ("reader", "own.toml")


WAYS = {
    "weight": (0.9, "weight = 0.5"),
    "weights": ((0.5, 0.25), "weights = [0.5, 0.5]"),
    "weights_file": (Path("w.toml"), 'weights-file = "other.toml"'),
    "search": ("0.5,0.7", 'search = "auto"'),
}


@pytest.mark.parametrize("typed", WAYS)
@pytest.mark.parametrize("written", WAYS)
def test_a_way_to_weigh_that_is_typed_replaces_the_one_in_the_file(tmp_path, typed, written):
    value, line = WAYS[typed][0], WAYS[written][1]
    settings = load_settings(SearchSettings, {typed: value}, write(tmp_path, f"[merge]\n{line}\n"))
    assert {name: getattr(settings, name) for name in WAYS} == dict.fromkeys(WAYS) | {typed: value}


def test_a_search_takes_its_own_keys_then_those_of_the_tests_then_those_of_all(tmp_path):
    text = 'data-dir = "all"\ndtype = "float16"\nrevision = "main"\n'
    text += '[eval]\ndata-dir = "tests"\ndtype = "bfloat16"\n[merge]\ndata-dir = "own"\n'
    found = load_settings(SearchSettings, {"search": "auto"}, write(tmp_path, text))
    assert (found.data_dir, found.dtype, found.revision) == (tmp_path / "own", "bfloat16", "main")


def test_a_search_takes_no_sentences_from_the_tests(tmp_path):
    path = write(tmp_path, f"[eval]\n{SENTENCES}")
    found = load_settings(SearchSettings, {"search": "auto"}, path)
    assert (found.langs, found.src, found.ref) == (("en-de",), None, ())
    path = write(tmp_path, f"[merge]\n{SENTENCES.replace('t.', 'dev.')}[eval]\n{SENTENCES}")
    found = load_settings(SearchSettings, {"search": "auto"}, path)
    assert (found.src, found.ref) == (tmp_path / "dev.en", (tmp_path / "dev.de",))
