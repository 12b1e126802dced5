"""The same adapters through a real vLLM engine, on a CPU or GPU."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from helpers.adapters import IDS, logits_through_peft, peft_adapter
from helpers.evaluation import eval_settings, read_predictions
from helpers.generation import answers_of, make_engine
from helpers.merging import rewrite
from helpers.models import SHAPE, saved_base
from helpers.processes import are_gone
from helpers.search import settings_for
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, Qwen2_5_VLConfig

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.deltas import LoraUpdate
from adaptermix.adapters.writing import stage_adapter, write_adapter
from adaptermix.errors import AdaptermixError
from adaptermix.evaluation.evaluate import evaluate
from adaptermix.generation.engine import Limits, Request
from adaptermix.generation.vllm_engine import VllmGenerator
from adaptermix.merging.merge import merge
from adaptermix.models.loading import load_tokenizer
from adaptermix.search.run import search
from adaptermix.settings.merging import MergeSettings

NO_VLLM = Path(__file__).parents[2] / ".venv" / "no-vllm"


def why_not() -> str:
    said = NO_VLLM.read_text().strip().splitlines()[-1:] if NO_VLLM.is_file() else []
    return "vLLM is not installed" + "".join(f": {line}" for line in said)


pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason=why_not()),
]

# One engine a process: it keeps its memory as long as the process lives. A start takes longer than
# all else here, so both processes do several things. They are killed at the end.
ENGINE = """
import json, os, signal, sys
from dataclasses import replace
from pathlib import Path
import psutil
from adaptermix.generation import cached
settings, limits, prompts, adapters = sys.argv[1], *map(json.loads, sys.argv[2:])
adapters = [*map(Path, adapters)]
engines = []
make = cached.make_generator

def make_one(*given):
    engines.append(make(*given[:-1], replace(given[-1], **limits)))
    return engines[-1]

def first_tokens(*adapters):
    engines[0]._make_room(adapters)
    return engines[0]._first_tokens([None, *adapters], prompts)

def tell(**found):
    children = [child.pid for child in psutil.Process().children(recursive=True)]
    print("RESULT", json.dumps({"starts": len(engines), "children": children, **found}), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

cached.make_generator = make_one
"""
ONE_COPY = f"""{ENGINE}
from adaptermix.errors import ConfigError
from adaptermix.evaluation.evaluate import evaluate
from adaptermix.generation.adapter_effect import IgnoredAdapterError
from adaptermix.generation.engine import Limits, Request
from adaptermix.generation.vllm_engine import VllmGenerator
from adaptermix.settings.evaluation import EvalSettings
settings = EvalSettings.model_validate_json(settings)
unknown = settings.model_copy(update=dict(engine_args=dict(max_num_sqs=4)))
try:
    VllmGenerator(unknown, Path(settings.model), None, [1], Limits(0, 1, 10))
except ConfigError as error:
    refused = str(error)
name = evaluate(settings).engine
engine = engines[0]
*adapters, ignored = adapters
systems = [None, *adapters]
texts = []
for order in (systems, systems[::-1], systems[:1]):
    answers = dict()
    engine.generate([Request(ids, system) for system in order for ids in prompts], answers.update)
    texts.append([answers[index].text for index in range(len(answers))])
likely = [first_tokens(adapter) for adapter in adapters[:-1]]
likely = [likely[0][0], *(tokens for _, tokens in likely)]
try:
    engine.generate([Request(ids, ignored) for ids in prompts], answers.update)
except IgnoredAdapterError as error:
    nothing = [str(error.path), error.module]
tell(engine=name, refused=refused, texts=texts, likely=likely, ignored=nothing)
"""
TWO_COPIES = f"""{ENGINE}
from adaptermix.search.run import search
from adaptermix.settings.merging import SearchSettings
*adapters, task, align = adapters
report = search([task, align], SearchSettings.model_validate_json(settings))
likely = first_tokens(*adapters)
tell(candidates=report.as_record()["candidates"], likely=likely)
"""
IMAGES = f"""{ENGINE}
from adaptermix.evaluation.evaluate import evaluate
from adaptermix.settings.evaluation import EvalSettings
evaluate(EvalSettings.model_validate_json(settings))
tell()
"""


def run_engine(code, settings, limits, adapters):
    """Run code in a Python of its own, the engine beside it in others, as users have it."""
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    given = [json.dumps(each) for each in (limits, PROMPTS, [*map(str, adapters)])]
    done = subprocess.run(
        [sys.executable, "-c", code, settings.model_dump_json(exclude_none=True), *given],
        capture_output=True,
        text=True,
        env=environment,
        timeout=900,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]
    found = json.loads(done.stdout.split("RESULT", 1)[1])
    found["left"] = not are_gone(found["children"], seconds=60)
    return found


PROMPTS = [IDS[0, : at + 1].tolist() for at in range(IDS.shape[1])]


@pytest.fixture(scope="module")
def adapters(tmp_path_factory, model_dir):
    """A task-like and an alignment-like adapter, their merge, and one by PEFT's other options."""
    tmp_path = tmp_path_factory.mktemp("adapters")
    peft_adapter(model_dir, tmp_path / "task", seed=1)
    peft_adapter(
        model_dir, tmp_path / "align", seed=2, layers_to_transform=[0, 1], target_modules=["q_proj"]
    )
    merge(
        [tmp_path / "task", tmp_path / "align"],
        MergeSettings(weight=0.6, out=tmp_path / "merged.safetensors"),
    )
    peft_adapter(model_dir, tmp_path / "rslora", seed=3, use_rslora=True, r=8)
    # Module by module another rank and another alpha: kept alone, or beside "align".
    merge(
        [tmp_path / "rslora", tmp_path / "align"],
        MergeSettings(weights=(0.7, 0.5), out=tmp_path / "patterns", compact=True),
    )
    config = read_adapter(tmp_path / "patterns").config
    assert config["rank_pattern"]
    assert config["alpha_pattern"]
    names = ("task", "align", "merged.safetensors", "rslora", "patterns")
    return [tmp_path / name for name in names]


@pytest.fixture(scope="module")
def staged(tmp_path_factory, adapters):
    """The adapters, one of zeros, and one whose keys have another prefix than the model's."""
    folder = tmp_path_factory.mktemp("more")
    made = read_adapter(adapters[0])
    zeros = {m: LoraUpdate(u.a, u.b * 0, u.scaling) for m, u in made.updates()}
    write_adapter(folder / "zeros", zeros, made.config, {})
    astray = {f"language_model.{module}": update for module, update in made.updates()}
    write_adapter(folder / "astray", astray, made.config, {})
    paths = [*adapters, folder / "zeros", folder / "astray"]
    return [stage_adapter(read_adapter(path), folder / "stage") for path in paths]


@pytest.fixture(scope="module")
def evaluations(tmp_path_factory, model_dir, corpus_dir, adapters):
    """The settings of the same test of all adapters with each engine, vLLM's by --tokenizer."""
    folder = tmp_path_factory.mktemp("evaluations")
    bare, without = folder / "bare", shutil.ignore_patterns("tokenizer*", "chat_template*")
    shutil.copytree(model_dir, bare, ignore=without)
    return [
        eval_settings(
            model,
            corpus_dir,
            folder / engine,
            adapters=tuple(map(str, adapters)),
            engine=engine,
            dtype="float32",
            **changes,
        )
        for engine, model, changes in (
            ("transformers", model_dir, {}),
            ("vllm", bare, {"tokenizer": str(model_dir)}),
        )
    ]


@pytest.fixture(scope="module")
def searches(tmp_path_factory, model_dir, corpus_dir):
    """The settings of the same search with each engine."""
    changes = {"dtype": "float32", "search": "0.4,0.5,0.6,0.7,0.8,0.9"}
    folder = tmp_path_factory.mktemp("searches")
    by_transformers, by_vllm = (
        settings_for(model_dir, corpus_dir, folder / engine, engine=engine, **changes)
        for engine in ("transformers", "vllm")
    )
    return by_transformers, by_vllm.model_copy(update={"data_parallel_size": 2})


@pytest.fixture(scope="module")
def one_copy(evaluations, staged):
    """What an engine with room for two adapters said; a command started it for six systems."""
    return run_engine(ONE_COPY, evaluations[1], {"adapters": 2}, staged)


@pytest.fixture(scope="module")
def two_copies(searches, staged, adapters):
    """What an engine of two copies said; a search started it, with room for all candidates."""
    return run_engine(TWO_COPIES, searches[1], {"rank": 32}, [*staged[:5], *adapters[:2]])


@pytest.mark.parametrize("engine", ["one_copy", "two_copies"])
def test_every_system_has_its_own_log_probabilities(request, model_dir, staged, engine):
    """Base and adapters decoded together equal PEFT, one by one.

    The base is among them because vLLM 0.32 gave it an adapter's answers on a CPU.
    """
    found, staged = request.getfixturevalue(engine)["likely"], staged[:5]
    base = AutoModelForCausalLM.from_pretrained(model_dir)(IDS).logits.detach()
    expected = [base, *(logits_through_peft(model_dir, path) for path in staged)]
    assert len(found) == len(expected)
    for system, logits in enumerate(expected):
        wanted = torch.log_softmax(logits[0], dim=-1)
        for at in range(len(PROMPTS)):
            tokens = found[system][at]
            assert len(tokens) == 5
            for token, value in tokens.items():
                assert math.isclose(value, wanted[at, int(token)].item(), abs_tol=2e-3)
    for path, logits in zip(staged, expected[1:], strict=True):
        assert (logits - base).abs().max() > 1, f"{path} must matter for this to mean anything"


@pytest.mark.parametrize(("engine", "copies"), [("one_copy", 1), ("two_copies", 2)])
def test_nothing_of_the_engine_is_left_when_what_asked_is_killed(request, engine, copies):
    """vLLM 0.32 alone would let it live."""
    found = request.getfixturevalue(engine)
    assert len(found["children"]) > copies
    assert not found["left"]


def test_adapters_come_and_go_and_one_that_changes_nothing_is_an_error(model_dir, staged, one_copy):
    """Five adapters and one of zeros in an engine with room for two; the base stays the base.

    Then one whose keys have another prefix than the model's, which vLLM ignores without a word.
    """
    *staged, ignored = staged
    engine = make_engine(model_dir)
    orders = ([None, *staged], [*staged[::-1], None], [None])
    for texts, order in zip(one_copy["texts"], orders, strict=True):
        requests = [Request(ids, system) for system in order for ids in PROMPTS]
        assert texts == [answer.text for answer in answers_of(engine, requests)]
    assert one_copy["ignored"] == [str(ignored), "language_model.model.layers.0.mlp.down_proj"]


def test_both_engines_give_the_same_predictions(evaluations, one_copy):
    by_transformers, by_vllm = evaluations
    assert evaluate(by_transformers).engine == "transformers"
    assert one_copy["engine"] == "vllm"
    for system in ("base", "task", "align", "merged", "rslora", "patterns"):
        for lang in ("en", "cy"):
            ours, theirs = (
                read_predictions(settings.out, system, lang)
                for settings in (by_transformers, by_vllm)
            )
            assert ours == theirs


def test_a_search_has_all_candidates_in_one_engine(searches, adapters, two_copies):
    """One start serves six weights and both adapters alone; the transformers engine agrees."""
    assert two_copies["starts"] == 1
    assert len(two_copies["candidates"]) == 8
    expected = search(adapters[:2], searches[0]).as_record()["candidates"]
    assert two_copies["candidates"] == expected


@pytest.mark.parametrize(
    ("options", "rank", "complaint"),
    [
        ({}, 600, "big has rank 600, above vLLM's limit of 512"),
        ({"max_lora_rank": 8}, 9, "big has rank 9, above --max-lora-rank 8"),
        ({"engine_args": "max_lora_rank=8"}, 9, "big has rank 9, above --max-lora-rank 8"),
        ({"max_lora_rank": 600}, 9, "--max-lora-rank 600: vLLM's limit is 512"),
    ],
)
def test_a_rank_above_the_limit_is_refused_before_the_engine_starts(
    model_dir, corpus_dir, options, rank, complaint
):
    settings = eval_settings(model_dir, corpus_dir, "unused", engine="vllm", **options)
    tokenizer = load_tokenizer(model_dir, settings)
    with pytest.raises(AdaptermixError, match=complaint):
        VllmGenerator(settings, model_dir, tokenizer, [1], Limits(1, rank, 10, "big"))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("torchvision") is None, reason="torchvision is not installed")
def test_a_model_of_text_and_images_answers_as_with_the_other_engine(corpus_dir, tmp_path):
    """Its folder has no image processor; an adapter may have the names of a class for text."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]}
    text = {key: value for key, value in SHAPE.items() if key != "head_dim"}
    vision = {"depth": 1, "num_heads": 2, "fullatt_block_indexes": [0]}
    vision |= dict.fromkeys(("hidden_size", "intermediate_size", "out_hidden_size"), 64)
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    ids = ("image", "video", "vision_start", "vision_end")
    config = Qwen2_5_VLConfig(
        text_config=text | {"rope_parameters": rope, "vocab_size": 380} | ends,
        vision_config=vision,
        **{f"{name}_token_id": 376 + at for at, name in enumerate(ids)},
        **ends,
    )
    base = saved_base(tmp_path / "base", "Qwen2_5_VLForConditionalGeneration", config)
    for seed, name in enumerate(("whole", "text")):
        options = {"kind": AutoModelForImageTextToText, "target_modules": ["q_proj", "v_proj"]}
        peft_adapter(base, tmp_path / name, seed=seed, **options)
    rewrite(
        tmp_path / "text",
        lambda ts: {name.replace("language_model.", ""): each for name, each in ts.items()},
    )
    by_transformers, by_vllm = (
        eval_settings(
            base,
            corpus_dir,
            tmp_path / engine,
            adapters=(str(tmp_path / "whole"), str(tmp_path / "text")),
            engine=engine,
            dtype="float32",
        )
        for engine in ("transformers", "vllm")
    )
    evaluate(by_transformers)
    run_engine(IMAGES, by_vllm, {}, [])
    answers = {
        (engine, system): [
            row["output"]
            for lang in ("en", "cy")
            for row in read_predictions(tmp_path / engine, system, lang)
        ]
        for engine in ("transformers", "vllm")
        for system in ("base", "whole", "text")
    }
    for system in ("base", "whole", "text"):
        assert answers["vllm", system] == answers["transformers", system]
        changed = zip(answers["vllm", system], answers["vllm", "base"], strict=True)
        assert system == "base" or sum(one != other for one, other in changed) > 5


def test_an_unknown_engine_argument_is_refused_before_the_engine_starts(one_copy):
    assert one_copy["refused"].startswith("--engine-args: ")
    assert "max_num_sqs" in one_copy["refused"]
    assert one_copy["starts"] == 1
