"""Commands on broken models and adapters: success, or one line and a documented exit code.

Each fault is given to two of the commands, and there are 40 random ones. ADAPTERMIX_BROKEN=1000
gives all commands each fault, and makes so many random ones.
"""

import io
import json
import os
import random
import shutil
import sys
from contextlib import chdir, redirect_stderr, redirect_stdout
from unittest.mock import patch

import pytest
import torch
from helpers.adapters import peft_adapter
from safetensors.torch import load_file, save_file

from adaptermix.cli.main import main


def call(*arguments, cwd):
    """Run the command line in this process; what is no error of ours is raised."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    argv = ["adaptermix", *map(str, arguments)]
    with chdir(cwd), redirect_stdout(out), redirect_stderr(err), patch.object(sys, "argv", argv):
        try:
            main()
        except SystemExit as ended:
            code = ended.code or 0
    return code, err.getvalue()


def config(key, value, file="config.json"):
    def mutate(folder):
        content = json.loads((folder / file).read_text())
        content.pop(key, None)
        if value is not ...:
            content[key] = value
        (folder / file).write_text(json.dumps(content))

    return mutate


def text(file, content):
    return lambda folder: (folder / file).write_text(content)


def cut(file, share=0.5):
    def mutate(folder):
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: int(len(content) * share)])

    return mutate


def gone(file):
    return lambda folder: (folder / file).unlink()


def tensors(change, file="model.safetensors"):
    def mutate(folder):
        weights = load_file(folder / file)
        change(weights)
        save_file(weights, folder / file, {"format": "pt"})

    return mutate


def cast(dtype):
    def change(weights):
        for name in weights:
            weights[name] = weights[name].to(dtype)

    return tensors(change)


def without(part):
    def change(weights):
        for name in [name for name in weights if part in name]:
            del weights[name]

    return change


def rows(name, count):
    return lambda weights: weights.update({name: weights[name][:count].clone()})


def index(weight_map):
    def mutate(folder):
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        content = json.dumps({"weight_map": weight_map})
        (folder / "model.safetensors.index.json").write_text(content)

    return mutate


MODELS = {
    f"config without {key}": config(key, ...)
    for key in (
        "model_type architectures hidden_size num_hidden_layers num_attention_heads vocab_size "
        "num_key_value_heads intermediate_size head_dim max_position_embeddings rms_norm_eps "
        "hidden_act rope_parameters tie_word_embeddings eos_token_id dtype"
    ).split()
}
MODELS |= {
    f"config with {key} = {value!r}": config(key, value)
    for key, value in (
        ("model_type", "nothing"),
        ("model_type", 3),
        ("model_type", "bert"),
        ("model_type", "t5"),
        ("model_type", "gemma3"),
        ("hidden_size", "64"),
        ("hidden_size", -1),
        ("hidden_size", 0),
        ("hidden_size", 128),
        ("hidden_size", None),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", 8),
        ("num_hidden_layers", 2),
        ("num_hidden_layers", "four"),
        ("num_attention_heads", 0),
        ("num_attention_heads", 3),
        ("num_key_value_heads", 7),
        ("vocab_size", 10),
        ("vocab_size", 4001),
        ("vocab_size", "many"),
        ("hidden_act", "nothing"),
        ("rope_parameters", 5),
        ("rope_parameters", {"rope_type": "nothing"}),
        ("max_position_embeddings", "long"),
        ("max_position_embeddings", 0),
        ("max_position_embeddings", 4),
        ("tie_word_embeddings", "yes"),
        ("tie_word_embeddings", True),
        ("eos_token_id", "end"),
        ("pad_token_id", 99999),
        ("dtype", "float3"),
        ("text_config", 3),
        ("quantization_config", {"quant_method": "gptq", "bits": 4}),
        ("quantization_config", {"quant_method": "bitsandbytes", "load_in_4bit": True}),
        ("quantization_config", {"quant_method": "awq", "bits": 4}),
        ("quantization_config", {"quant_method": "nothing"}),
        ("quantization_config", "gptq"),
        ("auto_map", {"AutoConfig": "missing.Config", "AutoModelForCausalLM": "missing.Model"}),
        ("auto_map", 3),
    )
}
MODELS |= {
    "config empty": text("config.json", ""),
    "config a list": text("config.json", "[1]"),
    "config no object": text("config.json", "{}"),
    "config cut": cut("config.json"),
    "config gone": gone("config.json"),
    "tokenizer gone": gone("tokenizer.json"),
    "tokenizer empty": text("tokenizer.json", ""),
    "tokenizer an object": text("tokenizer.json", "{}"),
    "tokenizer cut": cut("tokenizer.json"),
    "tokenizer without model": config("model", ..., "tokenizer.json"),
    "tokenizer of no type": config("model", {"type": "nothing"}, "tokenizer.json"),
    "tokenizer_config gone": gone("tokenizer_config.json"),
    "tokenizer_config cut": cut("tokenizer_config.json"),
    "tokenizer_config a list": text("tokenizer_config.json", "[]"),
    "tokenizer without end": config("eos_token", None, "tokenizer_config.json"),
    "tokenizer with a number for the end": config("eos_token", 3, "tokenizer_config.json"),
    "tokenizer of no class": config("tokenizer_class", "Nothing", "tokenizer_config.json"),
    "template with an error": text("chat_template.jinja", "{% for m in messages %}"),
    "template that refuses": text("chat_template.jinja", "{{ raise_exception('no') }}"),
    "template that divides by zero": text("chat_template.jinja", "{{ 1 / 0 }}"),
    "template that calls itself": text(
        "chat_template.jinja", "{%- macro f() %}{{ f() }}{% endmacro %}{{ f() }}"
    ),
    "template empty": text("chat_template.jinja", ""),
    "template of unknown names": text("chat_template.jinja", "{{ a.b.c }}"),
    "generation_config cut": text("generation_config.json", '{"eos_token'),
    "generation_config of text": text("generation_config.json", '{"eos_token_id": "end"}'),
    "generation_config of text to begin with": text(
        "generation_config.json", '{"bos_token_id": ""}'
    ),
    "generation_config a list": text("generation_config.json", "[]"),
    "weights gone": gone("model.safetensors"),
    "weights cut": cut("model.safetensors"),
    "weights cut in the header": cut("model.safetensors", 0.001),
    "weights empty": text("model.safetensors", ""),
    "weights a pointer": text("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"),
    "weights without a layer": tensors(without("layers.2.")),
    "weights without the head": tensors(without("lm_head")),
    "weights without anything": tensors(without("")),
    "weights of float8": cast(torch.float8_e4m3fn),
    "weights of int8": cast(torch.int8),
    "weights of bool": cast(torch.bool),
    "weights with fewer tokens": tensors(rows("model.embed_tokens.weight", 10)),
    "weights with a narrow layer": tensors(rows("model.layers.0.mlp.up_proj.weight", 5)),
    "weights not a number": tensors(lambda w: w["model.embed_tokens.weight"].fill_(torch.nan)),
    "shard missing": index({"model.norm.weight": "model-2.safetensors"}),
    "index empty": index({}),
    "index a list": index([]),
}

ADAPTERS = {
    f"config with {key} = {value!r}": config(key, value, "adapter_config.json")
    for key, value in (
        ("r", ...),
        ("r", "eight"),
        ("r", 0),
        ("r", 3),
        ("lora_alpha", ...),
        ("lora_alpha", None),
        ("peft_type", "IA3"),
        ("peft_type", ...),
        ("target_modules", ...),
        ("target_modules", 3),
        ("target_modules", ["nothing"]),
        ("target_modules", [3]),
        ("target_modules", "("),
        ("target_modules", {"q_proj": 1}),
        ("target_parameters", "up"),
        ("use_rslora", "yes"),
        ("fan_in_fan_out", []),
        ("base_model_name_or_path", None),
        ("modules_to_save", ["lm_head"]),
        ("modules_to_save", 3),
        ("task_type", "NOTHING"),
        ("task_type", [1]),
        ("base_model_name_or_path", 3),
        ("rank_pattern", {"q_proj": "x"}),
        ("rank_pattern", 3),
        ("alpha_pattern", {"(": 3}),
        ("use_dora", True),
        ("bias", "nothing"),
        ("init_lora_weights", "nothing"),
        ("layers_to_transform", "all"),
        ("unknown_key", 3),
    )
}
ADAPTERS |= {
    "config gone": gone("adapter_config.json"),
    "config cut": cut("adapter_config.json"),
    "config a list": text("adapter_config.json", "[]"),
    "weights gone": gone("adapter_model.safetensors"),
    "weights cut": cut("adapter_model.safetensors"),
    "weights without A": tensors(without("lora_A"), "adapter_model.safetensors"),
    "weights without anything": tensors(without(""), "adapter_model.safetensors"),
}
ADAPTERS |= {
    f"weights with {name} of {shape}": tensors(
        lambda w, n=name, s=shape: w.update({n: torch.ones(s)}), "adapter_model.safetensors"
    )
    for name, shape in (
        ("base_model.model.model.embed_tokens.weight", (999, 64)),
        ("base_model.model.lm_head.weight", (999, 64)),
        ("base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight", (4, 64)),
        ("something.else", (3,)),
    )
}
EVAL = "--engine transformers --langs en --limit 2 --max-new-tokens 2 --batch-size 1 --no-cache"
TEST = f"--model MODEL --data-dir DATA {EVAL}"
TASK = "--langs en --limit 4 --dev-limit 2 --batch-size 4 --max-steps 1 --system-prompt x"
PAIRS = "--pairs cy-en --batch-size 8 --contrastive-batch 4 --max-steps 1"
COMMANDS = {
    "eval": f"eval {TEST} --adapter ADAPTER -o OUT",
    "eval plan": f"eval {TEST} --adapter ADAPTER -o OUT --dry-run",
    "retrieval": "retrieval --model MODEL --data-dir TEXTS --langs en,cy --limit 2 --no-cache "
    "--adapter ADAPTER -o OUT",
    "into": "merge ADAPTER --weights 1 --into MODEL -o OUT",
    "search": f"merge ADAPTER SOUND --search 0.4,0.6 {TEST} -o OUT",
    "on": f"train-task --model MODEL --data-dir DATA {TASK} --on ADAPTER -o OUT --force",
}
ADAPTERS_ALONE = {
    "inspect": "inspect ADAPTER",
    "inspect both": "inspect ADAPTER SOUND",
    "merge": "merge ADAPTER SOUND --weight 0.5 --ignore-base -o OUT",
    "merge file": "merge SOUND ADAPTER --weight 0.5 --method ties --ignore-base -o OUT.safetensors",
    "svd": "merge ADAPTER SOUND --weights 1,1 --rank 2 --ignore-base -o OUT",
}
WITHOUT_ADAPTER = {
    "task plan": f"train-task --model MODEL --data-dir DATA {TASK} -o OUT --force --dry-run",
    "align": f"train-align --model MODEL --data-dir DATA {PAIRS} --limit 20 --dev-pairs 4 -o OUT "
    "--force",
    "joint": f"train-joint --model MODEL --data-dir DATA {TASK} {PAIRS} --dev-pairs 4 -o OUT "
    "--force",
    "joint plan": f"train-joint --model MODEL --data-dir DATA {TASK} {PAIRS} -o OUT --dry-run",
    "base eval": f"eval {TEST} -o OUT",
    "base retrieval": "retrieval --model MODEL --data-dir TEXTS --langs en,cy --no-cache -o OUT "
    "--dry-run",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model_dir, corpus_dir):
    """A folder with a sound adapter and parallel text."""
    root = tmp_path_factory.mktemp("broken")
    peft_adapter(model_dir, root / "adapter")
    (root / "texts").mkdir()
    for lang in ("en", "cy"):
        (root / "texts" / f"{lang}.txt").write_text(f"wake me {lang}\nplay jazz {lang}\n")
    return root


DOCUMENTED = (0, 2, 3, 4, 5, 6)


def faults(folder, corpus, places, commands, *, allowed=DOCUMENTED):
    """Run commands; return those that end in something else than success or one line."""
    places = {"DATA": corpus, "TEXTS": "texts", "SOUND": folder / "adapter"} | places
    found = []
    for name, command in commands.items():
        for left in (*folder.glob("out*"), *folder.glob(".out*")):
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        words = [str(places.get(word, word)) for word in command.replace("OUT", "out").split()]
        try:
            code, told = call(*words, cwd=folder)
        except Exception as error:  # noqa: BLE001  # a traceback, whatever it is
            found.append(f"{name}: {type(error).__name__}: {str(error).splitlines()[:1]}")
            continue
        lines = [line for line in told.splitlines() if line.startswith("error: ")]
        if code not in allowed or "Traceback" in told or len(lines) != (code != 0):
            found.append(f"{name}: exit code {code}: {told}")
        elif code and len(lines[0]) < len("error: something"):
            found.append(f"{name}: {lines[0]}")
    return found


def some(commands, what):
    """Return two commands, always the same ones for a fault; all of them where that is asked."""
    if "ADAPTERMIX_BROKEN" in os.environ:
        return commands
    return {name: commands[name] for name in random.Random(what).sample(sorted(commands), 2)}


@pytest.mark.parametrize("what", MODELS)
def test_a_broken_model_is_one_line(folder, model_dir, corpus_dir, tmp_path, what):
    model = shutil.copytree(model_dir, tmp_path / "model")
    MODELS[what](model)
    places = {"MODEL": model, "ADAPTER": folder / "adapter"}
    found = faults(folder, corpus_dir, places, some(COMMANDS | WITHOUT_ADAPTER, what))
    assert not found, "\n".join(found)


@pytest.mark.parametrize("what", ADAPTERS)
def test_a_broken_adapter_is_one_line(folder, model_dir, corpus_dir, tmp_path, what):
    adapter = shutil.copytree(folder / "adapter", tmp_path / "adapter")
    ADAPTERS[what](adapter)
    places = {"MODEL": model_dir, "ADAPTER": adapter}
    found = faults(folder, corpus_dir, places, some(COMMANDS | ADAPTERS_ALONE, what))
    assert not found, "\n".join(found)


RANDOM = int(os.environ.get("ADAPTERMIX_BROKEN", "60"))
VALUES = (None, -1, 0, 1, 3, 7, 10**9, 0.5, 1e-400, "x", "", "1", "é", True, [], [1], ["x"], {})
TEMPLATES = (
    "{{ messages[0] }}",
    "{{ messages | length }}",
    "{% for m in messages %}{{ m.content.nothing() }}{% endfor %}",
    "{% for m in messages %}{{ m.role + 3 }}{% endfor %}",
    "{% for m in messages[1:] %}{{ m.content }}{% endfor %}",
    "{{ messages[5].content }}",
    "{% include 'other' %}",
    "{{ bos_token }}",
    "{{ 'x' * 100000 }}",
    "{%- macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
)


def places_in(value, path=()):
    """Yield the way to every value within JSON."""
    yield path
    items = enumerate(value) if isinstance(value, list) else ()
    for key, inner in value.items() if isinstance(value, dict) else items:
        yield from places_in(inner, (*path, key))


def break_json(path, rng):
    content = json.loads(path.read_text())
    ways = list(places_in(content))
    way = rng.choice([w for w in ways if len(w) < 4] if rng.random() < 0.8 else ways)
    if not way:
        path.write_text(json.dumps(rng.choice(VALUES)))
        return
    owner = content
    for key in way[:-1]:
        owner = owner[key]
    if rng.random() < 0.3:
        del owner[way[-1]]
    else:
        owner[way[-1]] = rng.choice(VALUES)
    path.write_text(json.dumps(content))


def break_bytes(path, rng):
    content = bytearray(path.read_bytes())
    if rng.random() < 0.4:
        del content[rng.randrange(len(content)) :]
    else:
        for _ in range(rng.choice((1, 8))):
            content[rng.randrange(min(len(content), 4000))] = rng.randrange(256)
    path.write_bytes(content)


def break_tensors(path, rng):
    weights = load_file(path)
    name = rng.choice(sorted(weights))
    tensor = weights.pop(name)
    dtypes = (torch.int64, torch.bool, torch.float64, torch.float16, torch.float8_e5m2)
    changes = {
        "gone": lambda: None,
        "renamed": lambda: (name.replace(".", rng.choice((".x.", "_", "..")), 1), tensor),
        "typed": lambda: (name, tensor.to(rng.choice(dtypes))),
        "cut": lambda: (name, tensor[: len(tensor) // 2].clone()),
        "empty": lambda: (name, tensor[:0].clone()),
        "flat": lambda: (name, tensor.flatten()),
        "deep": lambda: (name, tensor[None]),
        "turned": lambda: (name, tensor.T.contiguous()),
        "single": lambda: (name, torch.tensor(1.0)),
        "wild": lambda: (name, torch.full_like(tensor, rng.choice((torch.nan, torch.inf)))),
        "added": lambda: (f"{name}.extra", tensor),
    }
    change = rng.choice(sorted(changes))
    if change == "added":
        weights[name] = tensor.clone()
    if changed := changes[change]():
        weights[changed[0]] = changed[1]
    save_file(weights, path, {"format": "pt"})


def break_at_random(folder, rng):
    """Break one thing in a folder; say what."""
    path = folder / rng.choice(sorted(p.name for p in folder.iterdir() if p.suffix != ".md"))
    if path.suffix == ".jinja":
        path.write_text(rng.choice(TEMPLATES))
    elif rng.random() < 0.15:
        break_bytes(path, rng)
    elif path.suffix == ".json":
        break_json(path, rng)
    else:
        break_tensors(path, rng)
    return path.name


@pytest.mark.parametrize("seed", range(RANDOM))
def test_random_faults_are_one_line(folder, model_dir, corpus_dir, tmp_path, seed):
    rng = random.Random(seed)
    places = {"MODEL": model_dir, "ADAPTER": folder / "adapter"}
    commands = COMMANDS | rng.choice((ADAPTERS_ALONE, WITHOUT_ADAPTER))
    broken = "MODEL" if commands.keys() >= WITHOUT_ADAPTER.keys() else "ADAPTER"
    places[broken] = shutil.copytree(places[broken], tmp_path / broken.lower())
    what = break_at_random(places[broken], rng)
    names = rng.sample(sorted(commands), 2)
    found = faults(folder, corpus_dir, places, {name: commands[name] for name in names})
    assert not found, f"{broken} {what}: " + "\n".join(found)


def test_sound_ones_pass(folder, model_dir, corpus_dir):
    peft_adapter(model_dir, folder / "other", seed=1)
    places = {"MODEL": model_dir, "ADAPTER": folder / "other"}
    commands = COMMANDS | ADAPTERS_ALONE | WITHOUT_ADAPTER
    found = faults(folder, corpus_dir, places, commands, allowed=(0,))
    assert not found, "\n".join(found)
