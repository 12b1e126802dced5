"""Trainings with compiled blocks, and with Liger's kernels in Triton's interpreter."""

import json
import os
import subprocess
import sys

import pytest
from helpers.models import save_model
from helpers.training import factors, task_settings
from transformers import AutoConfig, AutoModelForCausalLM

from adaptermix.adapters.adapter import read_adapter
from adaptermix.models.requirements import why_no_compile

TOLERANCE = 1e-4  # of a factor's norm: rounding, after six steps
# One projection, since each LoRA layer adds seconds of compilation.
SHORT = {"max_steps": 6, "eval_steps": 3, "target_modules": ("v_proj",)}


def differences(one, other):
    one, other = factors(one), factors(other)
    assert one.keys() == other.keys()
    return [((one[key] - other[key]).norm() / one[key].norm()).item() for key in one]


# In a process of its own: what other tests have done to torch changes what Dynamo can trace.
COMPILED = """
import json, sys
from torch._dynamo.utils import counters
from adaptermix.settings.training import TrainTaskSettings
from adaptermix.training.answer_loss import HeadLoss
from adaptermix.training.batches import AnswerCollator
from adaptermix.training.task import train_task

plain, compiled = (TrainTaskSettings(**json.loads(text)) for text in sys.argv[1:])
seen = {"lengths": [], "rows": []}
collate, head = AnswerCollator.__call__, HeadLoss.__call__


def collated(self, examples):
    batch = collate(self, examples)
    seen["lengths"].append(batch["input_ids"].shape[1])
    return batch


def headed(self, states, targets):
    seen["rows"].append(len(states))
    return head(self, states, targets)


def stop(progress):
    if progress.done == 4:
        raise KeyboardInterrupt


AnswerCollator.__call__, HeadLoss.__call__ = collated, headed
train_task(plain)
whole = {name: values[:] for name, values in seen.items()}
[values.clear() for values in seen.values()]
stopped = False
try:
    train_task(compiled, on_progress=stop)
except KeyboardInterrupt:
    stopped = True
train_task(compiled.model_copy(update={"resume": True}))
found = {"graphs": counters["stats"]["unique_graphs"], "breaks": len(counters["graph_break"])}
print("RESULT", json.dumps({"whole": whole, "compiled": seen, "stopped": stopped, **found}))
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory, model_dir, corpus_dir):
    """A training as it is, and a compiled one, stopped at step 4 and resumed; what both saw."""
    if why_no_compile(has_gpu=False) is not None:
        pytest.skip("no C++ compiler")
    folder = tmp_path_factory.mktemp("compiled")
    whole, compiled = (
        task_settings(model_dir, corpus_dir, folder / name, **SHORT, compile=name == "compiled")
        for name in ("whole", "compiled")
    )
    given = [json.dumps(each.model_dump(mode="json")) for each in (whole, compiled)]
    line = [sys.executable, "-c", COMPILED, *given]
    done = subprocess.run(line, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.split("RESULT", 1)[1])
    assert found["stopped"]
    return folder, found


def test_a_compiled_model_makes_the_same_adapter_up_to_rounding(runs):
    """Dropout included, and after a resume."""
    folder, _ = runs
    found = differences(folder / "whole", folder / "compiled")
    assert 0 < max(found) < TOLERANCE  # 0: nothing was compiled
    adapter = read_adapter(folder / "compiled")
    assert not [module for module in adapter.modules if "_orig_mod" in module]
    assert adapter.record["settings"]["compile"] is True


def test_lengths_share_what_is_compiled(runs):
    """For the first block, the others, and evaluation; whatever the lengths and blocks are."""
    _, found = runs
    assert len(set(found["compiled"]["lengths"])) > 3
    assert found["graphs"] == 3
    assert not found["breaks"]


def test_a_compiled_model_has_logits_of_answers_only(runs):
    whole, compiled = runs[1]["whole"], runs[1]["compiled"]
    first = len(whole["rows"]) // 2  # up to the stop
    assert compiled["rows"][:first] == whole["rows"][:first]
    assert sum(whole["rows"]) < sum(whole["lengths"]) * 8 / 2  # 8 rows of a batch


# Triton's interpreter runs kernels on the CPU. It has no functions of CUDA's libdevice, and takes
# floats for numbers of Python.
INTERPRETED = """
import json, sys
import numpy as np
import triton.language as tl
from triton.runtime import interpreter

converted = interpreter._implicit_cvt


def convert(value):
    if type(value) is not float:
        return converted(value)
    number = np.array([value], dtype=np.float32)
    return tl.tensor(interpreter.TensorHandle(number, tl.float32), tl.float32)


interpreter._implicit_cvt = convert
from liger_kernel.ops import geglu, rms_norm

rms_norm.rsqrt = lambda x: 1.0 / tl.sqrt(x)
geglu.tanh = lambda x: 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0

from adaptermix.models import kernels
from adaptermix.settings.training import TrainTaskSettings
from adaptermix.training.task import train_task

kernels.why_no_liger = lambda has_gpu: None
for name, out in (("", "plain"), ("liger", "liger")):
    options = json.loads(sys.argv[1]) | {"out": out, "liger": bool(name)}
    print(train_task(TrainTaskSettings(**options)).dev)
"""


def test_ligers_kernels_make_the_same_adapter_up_to_rounding(tmp_path, corpus_dir):
    for package in ("liger_kernel", "triton"):
        pytest.importorskip(package)
    folder = save_model(tmp_path / "model")
    config = AutoConfig.from_pretrained(folder, num_hidden_layers=1)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    settings = {
        **task_settings(folder, corpus_dir, "x").model_dump(mode="json"),
        **{"batch_size": 1, "micro_batch_size": 1, "max_steps": 2, "eval_steps": 2},
        **{"limit": 2, "dev_limit": 1},
    }
    line = [sys.executable, "-c", INTERPRETED, json.dumps(settings)]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    subprocess.run(line, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True)
    found = differences(tmp_path / "plain", tmp_path / "liger")
    assert 0 < max(found) < TOLERANCE
