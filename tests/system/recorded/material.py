"""The files that the recorded commands read, made from seeds: adapters, corpora, wrong inputs.

Nothing here imports the package or torch. Random numbers are those of NumPy's ``RandomState``,
which are the same in every release; files are written byte by byte, so that their hashes are too.
"""

import json
import shutil
import struct
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[3]
CONFIG_KEY = "lora_adapter_metadata"
HIDDEN, INNER = 128, 384  # of the demo's base model, which has 8 blocks
SHAPES = {  # output and input features
    "self_attn.q_proj": (HIDDEN, HIDDEN),
    "mlp.up_proj": (INNER, HIDDEN),
    "mlp.down_proj": (HIDDEN, INNER),
}
ATTENTION_AND_DOWN = ("self_attn.q_proj", "mlp.down_proj")

Tensors = dict[str, tuple[str, np.ndarray]]


def demo_folder() -> Path:
    """Return the folder of the demo's base model and corpus, wherever it is in the package."""
    package = Path(str(find_spec("adaptermix").origin)).parent
    return next(path for path in sorted(package.rglob("demo_data")) if path.is_dir())


def voice_adapter() -> Path:
    """Return a task adapter of the demo's base model that was trained."""
    return ROOT / "examples" / "voice" / "task.safetensors"


# Adapters ----------------------------------------------------------------------------------------


def to_dtype(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return float32 numbers as they are stored; bfloat16 as the upper halves of their bits."""
    if dtype == "BF16":
        bits = values.astype("<f4").view("<u4")
        rounded = bits + 0x7FFF + ((bits >> 16) & 1)
        return (rounded >> 16).astype("<u2")
    return values.astype({"F32": "<f4", "F16": "<f2"}[dtype])


def safetensors_bytes(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> bytes:
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at, parts = 0, []
    for name, (dtype, stored) in tensors.items():
        data = stored.tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(stored.shape),
            "data_offsets": [at, at + len(data)],
        }
        at += len(data)
        parts.append(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


def lora(
    seed: int,
    *,
    rank: int = 4,
    layers: Sequence[int] = range(6),
    modules: Sequence[str] = ATTENTION_AND_DOWN,
    dtype: str = "F32",
    silent: Sequence[int] = (),
    scale: float = 0.05,
    with_bias: bool = False,
    **config: Any,
) -> tuple[Tensors, dict[str, Any]]:
    """Return the tensors and the config of an adapter; ``silent`` blocks have B = 0."""
    random = np.random.RandomState(seed)
    ranks = config.get("rank_pattern", {})
    tensors: Tensors = {}
    for layer in layers:
        for module in modules:
            rows, columns = SHAPES[module]
            own = ranks.get(module.rpartition(".")[2], rank)
            a = random.standard_normal((own, columns)) * scale
            b = random.standard_normal((rows, own)) * scale * (layer not in silent)
            head = f"base_model.model.model.layers.{layer}.{module}.lora_"
            parts = {f"{head}A.weight": a, f"{head}B.weight": b}
            if with_bias:
                parts[f"{head}B.bias"] = random.standard_normal(rows) * scale
            for name, values in parts.items():
                tensors[name] = (dtype, to_dtype(values.astype(np.float32), dtype))
    for name in config.get("modules_to_save", ()):
        values = (1 + random.standard_normal(HIDDEN) * scale).astype(np.float32)
        tensors[f"base_model.model.model.{name}.weight"] = (dtype, to_dtype(values, dtype))
    return tensors, {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "../../adaptermix/demo_data/base",
        "r": rank,
        "lora_alpha": 2 * rank,
        "lora_bias": with_bias,
        "target_modules": sorted(module.rpartition(".")[2] for module in modules),
        "layers_to_transform": list(layers),
        **config,
    }


def write_file(path: Path, adapter: tuple[Tensors, dict[str, Any]], **record: Any) -> None:
    """Write one ``.safetensors`` file that carries its config, and perhaps a record."""
    tensors, config = adapter
    metadata = {CONFIG_KEY: json.dumps(config)}
    if record:
        metadata["adaptermix"] = json.dumps(record)
    path.write_bytes(safetensors_bytes(tensors, metadata))


def write_folder(path: Path, adapter: tuple[Tensors, dict[str, Any]]) -> None:
    """Write a PEFT directory."""
    tensors, config = adapter
    path.mkdir()
    (path / "adapter_model.safetensors").write_bytes(safetensors_bytes(tensors, {"format": "pt"}))
    (path / "adapter_config.json").write_text(json.dumps(config, indent=2) + "\n")


def write_adapters(folder: Path) -> None:
    """Write adapters that differ in rank, blocks, modules, precision and format."""
    task = {"seed": 1, "rank": 8}
    align = {"seed": 2, "rank": 4, "layers": range(4)}
    style = {
        "seed": 3,
        "layers": range(2, 6),
        "modules": ("self_attn.q_proj", "mlp.up_proj"),
        "use_rslora": True,
        "rank_pattern": {"up_proj": 6},
        "alpha_pattern": {"up_proj": 9},
    }
    write_file(folder / "task.safetensors", lora(**task), command="train-task")
    write_folder(folder / "align", lora(**align))
    write_file(folder / "style.safetensors", lora(**style))
    # The same rank and other blocks, some of which it leaves alone: for what adds factors.
    write_file(folder / "align8.safetensors", lora(4, rank=8, layers=range(5), silent=(1, 3)))
    write_file(folder / "style8.safetensors", lora(5, rank=8, layers=range(1, 6)))
    for dtype in ("BF16", "F16"):
        name = dtype.lower()
        write_file(folder / f"task-{name}.safetensors", lora(**task, dtype=dtype))
        write_folder(folder / f"align-{name}", lora(**align, dtype=dtype))
    for number in (1, 2):
        saved = lora(10 + number, layers=range(3), modules_to_save=["norm"])
        write_file(folder / f"saved-{number}.safetensors", saved)
        biased = lora(20 + number, layers=range(3), with_bias=True)
        write_file(folder / f"biased-{number}.safetensors", biased)
    other = lora(30, layers=range(3), base_model_name_or_path="other/base-model")
    write_file(folder / "other-base.safetensors", other)
    tensors, _ = lora(31, rank=4, layers=range(3))
    (folder / "bare.safetensors").write_bytes(safetensors_bytes(tensors))
    (folder / "weights.toml").write_text(
        'weights = [0.9, 0.1]\n\n[[rule]]\nlayers = "0-1,3"\nweights = [0.5, 0.5]\n\n'
        '[[rule]]\nmodules = "down_proj"\nweights = [1.0, 0.0]\n'
    )


def write_wrong_adapters(folder: Path) -> None:
    """Write adapters and files of weights each of which has something wrong with it."""
    write_adapters(folder)
    whole = (folder / "task.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (folder / "stub.safetensors").write_bytes(whole[:100])
    (folder / "text.safetensors").write_text("no adapter\n")
    tensors, config = lora(40, layers=range(2))
    name = next(name for name in tensors if name.endswith("lora_B.weight"))
    spoiled = dict(tensors)
    spoiled[name] = (
        "F32",
        np.where(np.arange(tensors[name][1].size) == 5, np.nan, 1.0)
        .astype("<f4")
        .reshape(tensors[name][1].shape),
    )
    write_file(folder / "nan.safetensors", (spoiled, config))
    integers = tensors | {name: ("I32", np.zeros(tensors[name][1].shape, "<i4"))}
    write_file(folder / "integers.safetensors", (integers, config))
    lonely = {n: tensor for n, tensor in tensors.items() if n != name}
    write_file(folder / "lonely.safetensors", (lonely, config))
    write_file(folder / "wrong-rank.safetensors", (tensors, config | {"r": 16}))
    write_file(folder / "no-rank.safetensors", (tensors, config | {"r": "four"}))
    write_file(folder / "dora.safetensors", (tensors, config | {"use_dora": True}))
    strange = tensors | {"base_model.model.head.weight": ("F32", np.zeros(3, "<f4"))}
    write_file(folder / "strange.safetensors", (strange, config))
    wide = {
        n: (d, np.concatenate([v, v], axis=1) if "lora_A" in n else v)
        for n, (d, v) in tensors.items()
    }
    write_file(folder / "wide.safetensors", (wide, config))
    write_folder(folder / "no-json", (tensors, config))
    (folder / "no-json" / "adapter_config.json").write_text('{"r": 4,\n oops\n')
    (folder / "empty-folder").mkdir()
    (folder / "short.toml").write_text("weights = [0.9]\n")
    (folder / "slip.toml").write_text('weights = [1, 1]\n\n[[rule]]\nlayer = "0"\n')
    (folder / "range.toml").write_text(
        'weights = [1, 1]\n\n[[rule]]\nlayers = "3-1"\nweights = [1, 1]\n'
    )


# Outputs to score --------------------------------------------------------------------------------


def massive_rows(lang: str, part: str = "test", count: int = 24) -> list[dict[str, Any]]:
    """Return the first rows of one part of the demo's corpus."""
    (path,) = (demo_folder() / "corpus" / "massive").glob(f"{lang}-*.jsonl")
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [row for row in rows if row["partition"] == part][:count]


def write_lines(path: Path, lines: Sequence[Any]) -> None:
    """Write texts as they are, and other values as JSON, one a line."""
    texts = (x if isinstance(x, str) else json.dumps(x, ensure_ascii=False) for x in lines)
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")


def _slots(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    parts = [part.partition("]")[0] for part in str(row["annot_utt"]).split("[")[1:]]
    return [(kind.strip(), value.strip()) for kind, _, value in (p.partition(":") for p in parts)]


def _damaged(slots: list[tuple[str, str]], number: int) -> str:
    """Write slots as an answer that is wrong in one of several ways, or right."""
    pairs = list(slots)
    if number % 6 == 1 and pairs:
        pairs[0] = ("date", pairs[0][1])
    if number % 6 == 2 and pairs:
        pairs[-1] = (pairs[-1][0], pairs[-1][1].partition(" ")[0])
    if number % 6 == 3:
        pairs = pairs[1:]
    if number % 6 == 4:
        return "I see " + "; ".join(f"{kind}: {value}" for kind, value in pairs) + "; time:"
    if number % 6 == 5:
        pairs = [*pairs, *pairs[:1], ("person", "nobody")]
    return "; ".join(f"{kind}: {value}" for kind, value in pairs) or "None"


SENTENCES = [
    ("The cat sits on the mat.", "Die Katze sitzt auf der Matte.", "Eine Katze sitzt da."),
    ("It rains, again!", "Es regnet schon wieder!", "Es regnet wieder einmal!"),
    ("Where is the station?", "Wo ist der Bahnhof?", "Wo finde ich den Bahnhof?"),
    ("We won 3-2 in the 90th minute.", "Wir gewannen 3:2 in der 90. Minute.", "Wir siegten 3:2."),
]
HYPOTHESES = ["Die Katze saß auf der Matte.", "Es regnet wieder!", "", "Wir gewannen 3:2, spät."]
CHINESE = ["猫坐在垫子上。", "又下雨了！", "车站在哪里？", "我们以3比2获胜。"]
CHINESE_OUT = ["猫在垫子上。", "又下雨了!", "火车站在哪里？", "我们3比2赢了。"]
JAPANESE = [
    "猫がマットの上に座っている。",
    "また雨が降っている。",
    "駅はどこですか。",
    "三対二で勝った。",
]
JAPANESE_OUT = ["猫はマットに座る。", "また雨です。", "駅はどこ？", "私たちは三対二で勝った。"]
IOB2 = """\
# sent_id = a
# text = Anna Berg bor i Oslo.
1\tAnna\tB-PER\t-\t-
2\tBerg\tI-PER\t-\t-
3\tbor\tO\t-\t-
4\ti\tO\t-\t-
5\tOslo\tB-LOC\t-\t-
6\t.\tO\t-\t-

# sent_id = b
1\tFN\tB-ORG\t-\t-
2\tog\tO\t-\t-
3\tUNICEF\tB-ORG\t-\t-
4\tmødte\tO\t-\t-
5\tnorske\t-\t-\t-
6\tfolk\tB-OTH\t-\t-

# sent_id = c
# text = Ingen her
1\tIngen\tO\t-\t-
2\ther\tO\t-\t-

# sent_id = d
# text = Paris, Paris
1\tParis\tB-LOC\t-\t-
2\t,\tO\t-\t-
3\tParis\tI-LOC\t-\t-
"""
ENTITIES = [
    '"Results": [{"TypeName": "PER", "Text": "Anna Berg", "Start": 0, "End": 9}, '
    '{"TypeName": "LOC", "Text": "Oslo", "Start": 17, "End": 21}]',
    "```json\nResults: [{'TypeName': 'ORG', 'Text': 'FN', 'Start': 0, 'End': 2}]```".replace(
        "\n", " "
    ),
    '"Results": []',
    '"Results": [{"TypeName": "LOC", "Text": "Paris", "Start": 0, "End": 5}, {"TypeName": "LOC"',
]
TASK_FILE = """\
name = "{name}"
metrics = {metrics}
system = ""
prompt = "{{utt}}"
answer = "{answer}"
id = "id"

[files]
train = "{{lang}}.train.jsonl"
dev = "{{lang}}.dev.jsonl"
test = "{{lang}}.test.jsonl"
"""


def write_outputs(folder: Path) -> None:
    """Write gold files and outputs of the three tasks, and files of tasks of one's own."""
    for lang, name in (("cy", "cy-GB"), ("en", "en-US")):
        rows = massive_rows(lang)
        write_lines(folder / f"{name}.jsonl", rows)
        answers = [_damaged(_slots(row), number) for number, row in enumerate(rows)]
        write_lines(folder / f"{lang}.txt", answers)
        records = [
            {"id": row["id"], "output": answer} for row, answer in zip(rows, answers, strict=True)
        ]
        write_lines(folder / f"{lang}.out.jsonl", records[::-1])
        write_lines(folder / f"{lang}.test.jsonl", rows)
    write_lines(folder / "en-de.src", [row[0] for row in SENTENCES])
    write_lines(folder / "en-de.ref", [row[1] for row in SENTENCES])
    write_lines(folder / "en-de.ref2", [row[2] for row in SENTENCES])
    write_lines(folder / "de.txt", HYPOTHESES)
    write_lines(folder / "de.jsonl", [{"translation": text} for text in HYPOTHESES])
    for name, gold, outputs in (("zh", CHINESE, CHINESE_OUT), ("ja", JAPANESE, JAPANESE_OUT)):
        write_lines(folder / f"en-{name}.ref", gold)
        write_lines(folder / f"{name}.txt", outputs)
    (folder / "no.iob2").write_text(IOB2, encoding="utf-8")
    write_lines(folder / "no.txt", ENTITIES)
    write_lines(
        folder / "no.jsonl",
        [{"id": i, "output": e} for i, e in zip("abcd", ENTITIES, strict=True)][::-1],
    )
    write_task_files(folder)


def write_task_files(folder: Path) -> None:
    """Write tasks of one's own on records of the demo's corpus."""
    for name, metrics, answer in (
        ("intent", '["exact-match", "chrf"]', "intent"),
        ("echo", '["chrf", "bleu"]', "utt"),
        ("marked", '["slots"]', "annot_utt"),
    ):
        text = TASK_FILE.format(name=name, metrics=metrics, answer=answer)
        (folder / f"{name}.toml").write_text(text)


def write_wrong_outputs(folder: Path) -> None:
    """Write gold files, outputs and task files that cannot be read."""
    write_outputs(folder)
    rows = massive_rows("en", count=4)
    gold = [json.dumps(row) for row in rows]
    write_lines(folder / "bad.jsonl", [*gold[:2], gold[2][:40], gold[3]])
    write_lines(folder / "lacking.jsonl", [gold[0], {"id": "1", "partition": "test", "utt": "x"}])
    write_lines(folder / "numbers.jsonl", [rows[0] | {"utt": 5}])
    write_lines(folder / "few.txt", ["None", "None"])
    ids = [{"id": str(row["id"]), "output": "None"} for row in massive_rows("en")]
    write_lines(folder / "twice.jsonl", [*ids[:-1], ids[0]])
    write_lines(folder / "unknown-id.jsonl", [*ids[:-1], {"id": "no-id", "output": "None"}])
    write_lines(folder / "no-output.jsonl", [{"id": "1", "outptu": "None"}])
    (folder / "empty.txt").write_text("")
    (folder / "latin.txt").write_bytes("f\xfcnf\n".encode("latin-1"))
    (folder / "spaces.iob2").write_text("1 Anna B-PER\n")
    (folder / "tags.iob2").write_text("1\tAnna\tB-PER\n2\tBerg\tX-PER\n")
    (folder / "nothing.iob2").write_text("# sent_id = a\n\n")
    write_lines(folder / "short.ref", ["Ein Satz."])
    write_lines(folder / "gap.ref", ["Ein Satz.", "", "Noch einer.", "Und einer."])
    (folder / "slip.toml").write_text('name = "x"\nmetrics = ["slots"]\nprmpt = "{utt}"\n')
    (folder / "mixed.toml").write_text(
        TASK_FILE.format(name="mixed", metrics='["slots", "bleu"]', answer="utt")
    )
    (folder / "field.toml").write_text(
        TASK_FILE.format(name="field", metrics='["bleu"]', answer="nowhere")
    )


# Projects with a model ---------------------------------------------------------------------------

SETTINGS = """\
model = "base"
data-dir = "corpus"

[train-task]
langs = ["en", "de"]
system-prompt = ""
max-steps = 2
batch-size = 4
micro-batch-size = 2
eval-steps = 1
limit = 12
dev-limit = 4

[train-align]
pairs = ["cy-en", "sw-en"]
max-steps = 2
batch-size = 8
contrastive-batch = 4
eval-steps = 1
limit = 40
dev-pairs = 4

[train-joint]
langs = ["en"]
pairs = ["cy-en"]
system-prompt = ""
max-steps = 2
batch-size = 8
contrastive-batch = 4
eval-steps = 1
limit = 12
dev-limit = 4
dev-pairs = 4

[eval]
langs = ["en", "de", "cy"]
system-prompt = ""
groups = { trained = ["en", "de"], other = ["cy"] }
limit = 3
max-new-tokens = 24
batch-size = 8
engine = "transformers"

[merge]
langs = ["en", "cy"]
limit = 3
"""
RECIPE = """\
model = "base"
data-dir = "corpus"
out = "runs/small"
engine = "transformers"
max-new-tokens = 16

[mixed]
command = "merge"
adapters = ["voice.safetensors", "align"]
weights = [1, 0.2]

[look]
command = "inspect"
adapters = ["@mixed", "align"]
by = "kind"

[test]
command = "eval"
adapters = ["@mixed"]
langs = ["en", "cy"]
system-prompt = ""
limit = 2
groups = { trained = ["en"] }

[count]
command = "score"
gold = "en-US.jsonl"
predictions = "en.txt"
lang = "en"
"""


def write_project(folder: Path) -> None:
    """Write the demo's base model and corpus, settings for tiny runs, and adapters."""
    for name in ("base", "corpus"):
        shutil.copytree(demo_folder() / name, folder / name)
    shutil.copy(voice_adapter(), folder / "voice.safetensors")
    write_folder(folder / "align", lora(2, rank=4, layers=range(4), scale=0.02))
    write_file(folder / "style.safetensors", lora(3, rank=4, layers=range(4, 8), scale=0.02))
    (folder / "adaptermix.toml").write_text(SETTINGS)


def write_folding(folder: Path) -> None:
    """Write adapters beside the demo's base model."""
    write_adapters(folder)
    shutil.copytree(demo_folder() / "base", folder / "base")


def write_evaluations(folder: Path) -> None:
    """Write a project with tasks of one's own."""
    write_project(folder)
    write_task_files(folder)
    for lang in ("en", "cy"):
        for part in ("dev", "test"):
            write_lines(folder / f"{lang}.{part}.jsonl", massive_rows(lang, part, 4))


def write_parallel(folder: Path) -> None:
    """Write a project with the same sentences in several languages, one file each."""
    write_project(folder)
    (folder / "parallel").mkdir()
    for lang in ("en", "de", "cy", "sw"):
        rows = massive_rows(lang, count=12)
        write_lines(folder / "parallel" / f"{lang}.txt", [row["utt"] for row in rows])


def write_recipes(folder: Path) -> None:
    """Write a project with recipes, one of which runs."""
    write_project(folder)
    (folder / "adaptermix.toml").unlink()  # a recipe takes nothing from it
    write_lines(folder / "en-US.jsonl", massive_rows("en"))
    answers = [_damaged(_slots(row), at) for at, row in enumerate(massive_rows("en"))]
    write_lines(folder / "en.txt", answers)
    (folder / "small.toml").write_text(RECIPE)
    (folder / "other.toml").write_text(
        'base = "small.toml"\nout = "runs/other"\n\n[again]\ncommand = "merge"\n'
        'adapters = ["@mixed", "style.safetensors"]\nweight = 0.5\n'
    )
    for name, before, after in (
        ("cycle", '["voice.safetensors", "align"]', '["@more", "align"]'),
        ("unknown-step", '"@mixed", "align"', '"@mxied", "align"'),
        ("unknown-key", "by = ", "bye = "),
        ("unknown-command", '"inspect"', '"inspct"'),
        ("no-command", 'command = "score"\n', ""),
        ("unknown-top", "data-dir", "data-dri"),
        ("wrong-value", "limit = 2", "limit = 0"),
        ("wrong-type", 'langs = ["en", "cy"]', 'langs = "en"\nbatch-size = "many"'),
        ("missing-file", '"en-US.jsonl"', '"nowhere.jsonl"'),
        ("missing-adapter", '"@mixed", "align"', '"@mixed", "nowhere"'),
        ("managed", "limit = 2", 'limit = 2\nout = "x"'),
        ("no-adapter", 'adapters = ["@mixed"]', 'adapters = ["@look"]'),
        ("unknown-lang", 'langs = ["en", "cy"]', 'langs = ["en", "xx"]'),
        ("not-toml", "[look]", "[look"),
    ):
        text = RECIPE.replace(before, after)
        if name == "cycle":
            text += '\n[more]\ncommand = "merge"\nadapters = ["@mixed", "align"]\nweight = 0.5\n'
        (folder / f"{name}.toml").write_text(text)
    (folder / "no-steps.toml").write_text('model = "base"\n')


def write_wrong_projects(folder: Path) -> None:
    """Write a project with settings files and data that are wrong."""
    write_project(folder)
    write_task_files(folder)
    write_lines(folder / "chat.jsonl", [{"messages": [{"role": "user", "content": "hi"}]}])
    for name, before, after in (
        ("slip", "max-steps = 2\nbatch-size = 4", "max-steps = 2\nbatch-szie = 4"),
        ("section", "[train-joint]", "[train-jiont]"),
        ("top", "data-dir", "data-dri"),
        ("type", "eval-steps = 1\nlimit = 12", 'eval-steps = "often"\nlimit = 12'),
        ("bool", "max-new-tokens = 24", "max-new-tokens = true"),
        ("range", "batch-size = 8\nengine", "batch-size = 0\nengine"),
        ("syntax", "[eval]", "[eval"),
    ):
        (folder / f"{name}.toml").write_text(SETTINGS.replace(before, after, 1))
    for name, text in (("columns", "un\tone\ndau\n"), ("nothing", "")):
        (folder / name).mkdir()
        (folder / name / "cy-en.tsv").write_text(text)
    for name, lines in (("even", ["un", "dau", "tri"]), ("uneven", ["un", "dau"])):
        (folder / name).mkdir()
        write_lines(folder / name / "en.txt", ["one", "two", "three"])
        write_lines(folder / name / "cy.txt", lines)


WRITERS: dict[str, Callable[[Path], None]] = {
    "adapters": write_adapters,
    "wrong adapters": write_wrong_adapters,
    "folding": write_folding,
    "outputs": write_outputs,
    "wrong outputs": write_wrong_outputs,
    "project": write_project,
    "evaluations": write_evaluations,
    "parallel": write_parallel,
    "recipes": write_recipes,
    "wrong projects": write_wrong_projects,
}
