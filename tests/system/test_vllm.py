"""The same adapters through a real vLLM engine, on a CPU or GPU."""

import json
import math
import os
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
from helpers.processes import are_gone
from helpers.search import settings_for
from transformers import AutoModelForCausalLM

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.deltas import LoraUpdate
from adaptermix.adapters.writing import stage_adapter, write_adapter
from adaptermix.errors import AdaptermixError, ConfigError
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

# One engine a process: it keeps its memory as long as the process lives. This one is killed.
LOG_PROBABILITIES = """
import json, os, signal, sys
from pathlib import Path
import psutil
from adaptermix.generation.engine import Limits
from adaptermix.generation.vllm_engine import VllmGenerator
from adaptermix.settings.evaluation import EvalSettings
settings, model, prompts, adapters = json.loads(sys.argv[1])
engine = VllmGenerator(EvalSettings(**settings), Path(model), None, [1], Limits(5, 16, 32))
systems = [None, *(Path(path) for path in adapters)]
children = [child.pid for child in psutil.Process().children(recursive=True)]
print("RESULT", json.dumps([engine._first_tokens(systems, prompts), children]), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


MORE_ADAPTERS_THAN_ROOM = """
import json, sys
from pathlib import Path
from adaptermix.generation.engine import Limits, Request
from adaptermix.generation.adapter_effect import IgnoredAdapterError
from adaptermix.generation.vllm_engine import VllmGenerator
from adaptermix.models.loading import load_tokenizer
from adaptermix.settings.evaluation import EvalSettings
settings, model, prompts, adapters, ignored = json.loads(sys.argv[1])
settings = EvalSettings(**settings)
tokenizer = load_tokenizer(Path(model), settings)
engine = VllmGenerator(settings, Path(model), tokenizer, [1], Limits(2, 16, 32))
systems = [None, *map(Path, adapters)]
found = []
for order in (systems, systems[::-1], systems[:1]):
    answers = {}
    engine.generate([Request(ids, system) for system in order for ids in prompts], answers.update)
    found.append([answers[index].text for index in range(len(answers))])
try:
    engine.generate([Request(ids, Path(ignored)) for ids in prompts], answers.update)
except IgnoredAdapterError as error:
    print("RESULT", json.dumps([found, [str(error.path), error.module]]))
"""


def run_python(code, *arguments, in_one_process=True):
    """Run code in a Python of its own; vLLM's core is in that too, or as users have it, in another.

    A second process imports everything anew, which takes longer than all else here.
    """
    environment = os.environ | {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_LOGGING_LEVEL": "ERROR",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0" if in_one_process else "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=400,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr[-3000:]
    return json.loads(done.stdout.split("RESULT", 1)[1])


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


@pytest.mark.parametrize("copies", [1, 2])
def test_every_system_has_its_own_log_probabilities(model_dir, staged, copies):
    """Base and adapters decoded together equal PEFT, one by one.

    The base is among them because vLLM 0.32 gave it an adapter's answers on a CPU. Nothing of the
    engine is left when the process that asked is killed; vLLM 0.32 alone would let it live.
    """
    prompts, staged = PROMPTS, staged[:5]
    base = AutoModelForCausalLM.from_pretrained(model_dir)(IDS).logits.detach()
    expected = [base, *(logits_through_peft(model_dir, path) for path in staged)]
    settings = {
        "max_new_tokens": 1,
        "engine": "vllm",
        "dtype": "float32",
        "data_parallel_size": copies,
    }
    found, children = run_python(
        LOG_PROBABILITIES,
        json.dumps([settings, str(model_dir), prompts, list(map(str, staged))]),
        in_one_process=copies == 1,
    )
    assert len(children) >= copies
    assert are_gone(children, seconds=60)
    for system, logits in enumerate(expected):
        wanted = torch.log_softmax(logits[0], dim=-1)
        for at in range(len(prompts)):
            tokens = found[system][at]
            assert len(tokens) == 5
            for token, value in tokens.items():
                assert math.isclose(value, wanted[at, int(token)].item(), abs_tol=2e-3)
    for path, logits in zip(staged, expected[1:], strict=True):
        assert (logits - base).abs().max() > 1, f"{path} must matter for this to mean anything"


def test_adapters_come_and_go_and_one_that_changes_nothing_is_an_error(model_dir, staged):
    """Five adapters and one of zeros in an engine with room for two; the base stays the base.

    Then one whose keys have another prefix than the model's, which vLLM ignores without a word.
    """
    *staged, ignored = staged
    prompts = PROMPTS
    settings = {"max_new_tokens": 8, "engine": "vllm", "dtype": "float32"}
    found, (path, module) = run_python(
        MORE_ADAPTERS_THAN_ROOM,
        json.dumps([settings, str(model_dir), prompts, list(map(str, staged)), str(ignored)]),
    )
    engine = make_engine(model_dir)
    for texts, order in zip(found, ([None, *staged], [*staged[::-1], None], [None]), strict=True):
        requests = [Request(ids, system) for system in order for ids in prompts]
        assert texts == [answer.text for answer in answers_of(engine, requests)]
    assert path == str(ignored)
    assert module == "language_model.model.layers.0.mlp.down_proj"


def test_both_engines_give_the_same_predictions(tmp_path, model_dir, corpus_dir, adapters):
    by_transformers, by_vllm = (
        eval_settings(
            model_dir,
            corpus_dir,
            tmp_path / engine,
            adapters=tuple(map(str, adapters)),
            engine=engine,
        )
        for engine in ("transformers", "vllm")
    )
    code = (
        "import sys; from adaptermix.settings.evaluation import EvalSettings; "
        "from adaptermix.evaluation.evaluate import evaluate; "
        "report = evaluate(EvalSettings.model_validate_json(sys.argv[1])); "
        "print('RESULT', __import__('json').dumps(report.engine))"
    )
    assert evaluate(by_transformers).engine == "transformers"
    assert run_python(code, by_vllm.model_dump_json(), in_one_process=False) == "vllm"
    for system in ("base", "task", "align", "merged", "rslora", "patterns"):
        for lang in ("en", "cy"):
            ours, theirs = (
                read_predictions(tmp_path / engine, system, lang)
                for engine in ("transformers", "vllm")
            )
            assert ours == theirs


def test_a_search_has_all_candidates_in_one_engine(tmp_path, model_dir, corpus_dir, adapters):
    """One start serves six weights and both adapters alone; the transformers engine agrees."""
    code = """
import json, sys
from pathlib import Path
from adaptermix.generation import cached
from adaptermix.search.run import search
from adaptermix.settings.merging import SearchSettings
if __name__ == "__main__":
    started = []
    make = cached.make_generator
    cached.make_generator = lambda *given: started.append(given) or make(*given)
    settings = SearchSettings.model_validate_json(sys.argv[1])
    report = search([Path(path) for path in sys.argv[2:]], settings)
    print("RESULT", json.dumps([len(started), report.as_record()["candidates"]]))
"""
    by_transformers, by_vllm = (
        settings_for(
            model_dir,
            corpus_dir,
            tmp_path / f"by-{engine}",
            **{"engine": engine, "dtype": "float32", "search": "0.4,0.5,0.6,0.7,0.8,0.9"},
        )
        for engine in ("transformers", "vllm")
    )
    starts, found = run_python(
        code, by_vllm.model_dump_json(exclude_none=True), *map(str, adapters[:2])
    )
    assert starts == 1
    assert len(found) == 8
    assert found == search(adapters[:2], by_transformers).as_record()["candidates"]


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


def test_an_unknown_engine_argument_is_refused_before_the_engine_starts(model_dir, corpus_dir):
    settings = eval_settings(
        model_dir, corpus_dir, "unused", engine="vllm", engine_args="max_num_sqs=4"
    )
    tokenizer = load_tokenizer(model_dir, settings)
    with pytest.raises(ConfigError, match="--engine-args: .*max_num_sqs"):
        VllmGenerator(settings, model_dir, tokenizer, [1], Limits(0, 1, 10))
