"""The same adapters through a real vLLM engine, on a CPU or GPU."""

import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from test_adapters import IDS, logits_through_peft, peft_adapter
from test_evaluation import eval_settings, read_predictions
from transformers import AutoModelForCausalLM

from adaptermix.adapters import read_adapter, stage_adapter
from adaptermix.config import MergeSettings
from adaptermix.errors import ArtifactError
from adaptermix.generation import VllmGenerator
from adaptermix.merging import merge
from adaptermix.models import load_tokenizer

NO_VLLM = Path(__file__).parents[2] / ".venv" / "no-vllm"


def why_not() -> str:
    said = NO_VLLM.read_text().strip().splitlines()[-1:] if NO_VLLM.is_file() else []
    return "vLLM is not installed" + "".join(f": {line}" for line in said)


pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason=why_not()),
]

# One engine a process: it keeps its memory as long as the process lives.
LOG_PROBABILITIES = """
import json, sys
from adaptermix.config import EvalSettings
from adaptermix.generation import VllmGenerator, _lora_request
from pathlib import Path
from vllm import SamplingParams, TokensPrompt
settings, model, prompts, adapters = json.loads(sys.argv[1])
paths = [Path(path) for path in adapters]
engine = VllmGenerator(EvalSettings(**settings), Path(model), None, [1], paths, 16, 32)
systems = [None, *paths]
outputs = engine.llm.generate(
    [TokensPrompt(prompt_token_ids=ids) for _ in systems for ids in prompts],
    SamplingParams(temperature=0.0, max_tokens=1, logprobs=5),
    lora_request=[_lora_request(path) for path in systems for _ in prompts],
    use_tqdm=False,
)
print("RESULT", json.dumps(
    [{t: p.logprob for t, p in o.outputs[0].logprobs[0].items()} for o in outputs]
))
"""


def run_python(code, *arguments):
    environment = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.split("RESULT", 1)[1])


@pytest.fixture
def adapters(tmp_path, model_dir):
    """A task-like and an alignment-like adapter, their merge, and one by PEFT's other options."""
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
        MergeSettings(weights=(0.7, 0.5), out=tmp_path / "patterns"),
    )
    config = read_adapter(tmp_path / "patterns").config
    assert config["rank_pattern"]
    assert config["alpha_pattern"]
    names = ("task", "align", "merged.safetensors", "rslora", "patterns")
    return [tmp_path / name for name in names]


def test_every_system_has_its_own_log_probabilities_in_one_batch(tmp_path, model_dir, adapters):
    """Base and adapters decoded together equal PEFT, one by one.

    The base is among them because vLLM 0.32 gave it an adapter's answers on a CPU.
    """
    staged = [stage_adapter(read_adapter(path), tmp_path / "stage") for path in adapters]
    prompts = [IDS[0, : at + 1].tolist() for at in range(IDS.shape[1])]
    base = AutoModelForCausalLM.from_pretrained(model_dir)(IDS).logits.detach()
    expected = [base, *(logits_through_peft(model_dir, path) for path in staged)]
    settings = {"max_new_tokens": 1, "engine": "vllm", "dtype": "float32"}
    found = run_python(
        LOG_PROBABILITIES,
        json.dumps([settings, str(model_dir), prompts, list(map(str, staged))]),
    )
    for system, logits in enumerate(expected):
        wanted = torch.log_softmax(logits[0], dim=-1)
        for at in range(len(prompts)):
            tokens = found[system * len(prompts) + at]
            assert len(tokens) == 5
            for token, value in tokens.items():
                assert math.isclose(value, wanted[at, int(token)].item(), abs_tol=2e-3)
    for path, logits in zip(staged, expected[1:], strict=True):
        assert (logits - base).abs().max() > 1, f"{path} must matter for this to mean anything"


def test_both_engines_give_the_same_predictions(tmp_path, model_dir, corpus_dir, adapters):
    for engine in ("transformers", "vllm"):
        settings = eval_settings(
            model_dir,
            corpus_dir,
            tmp_path / engine,
            adapters=tuple(map(str, adapters)),
            engine=engine,
        )
        code = (
            "import sys; from adaptermix.config import EvalSettings; "
            "from adaptermix.evaluation import evaluate; "
            "report = evaluate(EvalSettings.model_validate_json(sys.argv[1])); "
            "print('RESULT', __import__('json').dumps(report.engine))"
        )
        assert run_python(code, settings.model_dump_json()) == engine
    for system in ("base", "task", "align", "merged", "rslora", "patterns"):
        for lang in ("en", "cy"):
            ours, theirs = (
                read_predictions(tmp_path / engine, system, lang)
                for engine in ("transformers", "vllm")
            )
            assert ours == theirs


def test_a_rank_above_vllms_limit_is_refused_before_the_engine_starts(model_dir, corpus_dir):
    settings = eval_settings(model_dir, corpus_dir, "unused", engine="vllm")
    tokenizer = load_tokenizer(model_dir, settings)
    with pytest.raises(ArtifactError, match="rank 600, above vLLM's limit of 512"):
        VllmGenerator(settings, model_dir, tokenizer, [1], [], 600, 10)
