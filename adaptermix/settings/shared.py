"""Settings that a user may give, as flags or in ``adaptermix.toml``.

A setting is declared once, as a field with its default (the paper's if there is one), its limits
and its help text. The command line is generated from the fields, and a key in the file is the flag
without its two dashes. Flags override the file, which overrides the defaults.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from adaptermix.settings import locations
from adaptermix.settings.paper import PAPER_GROUPS, PAPER_MODEL
from adaptermix.settings.values import EngineArgs, Names, ServerUrls

ModelName = Annotated[str, locations.Names("model")]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
_OUTPUTS = {"out", "export"}


class Settings(BaseModel):
    """Base class of all settings, which are immutable and refuse unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        allow_inf_nan=False,
        defer_build=True,  # each command builds only its own settings, which saves 0.1 s
        alias_generator=lambda name: name.replace("_", "-"),
    )
    section: ClassVar[str] = ""
    panel: ClassVar[str | None] = None  # heading of its options in the help
    main: ClassVar[tuple[str, ...]] = ()  # fields that the help shows first
    own: ClassVar[tuple[str, ...]] = ()  # keys that it does not share with other commands

    def as_text(self, *, without: Collection[str] = ()) -> str:
        """Return the settings as a text to compare; paths may be in any encoding."""
        return json.dumps(self.model_dump(mode="json", exclude=set(without)))

    @classmethod
    def for_keys(cls, keys: Mapping[str, object]) -> "type[Settings]":
        """Return the class that validates these keys: this one, or one with fewer fields."""
        return cls

    @classmethod
    def unused(cls, keys: Mapping[str, object]) -> set[str]:
        """Return the keys of this class that have no effect with the given ones."""
        return {*keys_of(cls)} - {*keys_of(cls.for_keys(keys))}

    @classmethod
    def without_effect(cls, keys: Mapping[str, Any]) -> dict[str, str]:
        """Return keys that a note names because they have no effect with the others, and why.

        Keys at the top of a recipe are for several commands, and are left out without a note.
        """
        return {}

    @classmethod
    def from_keys(cls, keys: Mapping[str, object]) -> "Settings":
        """Create settings from keys as written in a file, without those that have no effect.

        Raises:
            pydantic.ValidationError: A key is unknown, or a value is invalid.
        """
        unused = cls.unused(keys)
        used = {key: value for key, value in keys.items() if key not in unused}
        return cls.for_keys(keys).model_validate(used)

    @classmethod
    def location(cls, key: str) -> locations.Location | None:
        """Return the kind of location that a key's value names; None if it names none."""
        field = cls.model_fields.get(key.replace("-", "_"))
        return locations.location_of(field) if field is not None else None

    def inputs(self) -> list[Path]:
        """Return the files and folders that the settings may name, except for outputs."""
        found = []
        for name in sorted(type(self).model_fields.keys() - _OUTPUTS):
            location, value = self.location(name), getattr(self, name)
            if location is not None and value is not None:
                found += locations.paths_of(location, value)
        return found

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, value: Any, field: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(field.field_name)].annotation
        if isinstance(value, bool) and bool not in (annotation, *get_args(annotation)):
            raise ValueError("expected a number or text")
        return value


class ModelSettings(Settings):
    """The base model and the data: top-level keys of ``adaptermix.toml`` for all commands."""

    panel: ClassVar[str | None] = "Model and data"

    model: ModelName = Field(
        default=PAPER_MODEL,
        description="Base model: a local folder, or a name on the Hugging Face Hub.",
    )
    revision: str | None = Field(
        default=None, description="Branch, tag or commit of a model on the Hub."
    )
    tokenizer: Annotated[str | None, locations.Names("tokenizer")] = Field(
        default=None,
        description="Use the tokenizer and chat template in this folder, such as an adapter's, or "
        "in this repository on the Hub. Default: the base model's.",
    )
    dtype: Dtype = Field(
        default="auto",
        description="Precision of the base model. auto is bfloat16 on a GPU and float32 on a CPU.",
    )
    trust_remote_code: bool = Field(
        default=False,
        description="Run code that ships with the model. Enable only for models you trust.",
    )
    data_dir: Path | None = Field(
        default=None,
        description="Folder with the task data. By default, the data is downloaded from the Hub.",
    )
    threads: int | None = Field(default=None, gt=0, description="Number of CPU threads for torch.")


TASKS = ("massive", "wmt23", "uner")
# The tasks' defaults, from the paper, if they differ from those of MASSIVE.
_TRAINED: dict[str, dict[str, Any]] = {
    "wmt23": {
        "langs": tuple(f"{a}-en" for a in ("cs", "de", "is", "ru", "zh"))
        + tuple(f"en-{a}" for a in ("cs", "de", "is", "ru", "zh"))
    },
    "uner": {"langs": ("en", "pt", "zh")},
}
_LONG: dict[str, Any] = {"max-new-tokens": 512}
_TESTED: dict[str, dict[str, Any]] = {
    "wmt23": {"langs": ("he-en", "ja-en", "uk-en", "en-he", "en-ja", "en-uk"), **_LONG},
    "uner": {"langs": ("en", "pt", "zh", "da", "hr", "sk", "sr", "sv"), **_LONG},
}
_TASK_DEFAULTS: dict[str, dict[str, dict[str, Any]]] = {
    "train-task": _TRAINED,
    "train-joint": _TRAINED,
    "eval": _TESTED,
    # A search decodes like eval. The tested pairs of wmt23 have no dev data.
    "merge": {"wmt23": _TRAINED["wmt23"] | _LONG, "uner": _TESTED["uner"]},
}


HARNESS = "lm-eval"  # prefix of lm-evaluation-harness's tasks, before a colon
# Options that do not apply: lm-eval's files define the prompts and how answers are parsed.
NOT_OF_HARNESS = (
    *("langs", "split", "data-dir", "prompt", "system-prompt", "chat-template", "turn-newline"),
    *("scorer", "match", "tokenize", "src", "ref", "comet-model", "comet-python"),
)


def harness_tasks(task: object) -> tuple[str, ...]:
    """Return the task names in ``lm-eval:NAME,NAME``; empty for other tasks."""
    text = str(task).removeprefix(f"{HARNESS}:")
    if text == task or not isinstance(task, str):
        return ()
    return tuple(dict.fromkeys(filter(None, map(str.strip, text.split(",")))))


def meant_for(task: object, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return shared keys without those that do not apply to a task; None is the default task."""
    left_out = ["lm-eval-path"]
    if harness_tasks(task):
        left_out = [*NOT_OF_HARNESS, "engine", "server", *VLLM_KEYS]
    return {key: value for key, value in keys.items() if key not in left_out}


def not_replaced(keys: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's keys without those that exclude an option on the command line."""
    ways = {"weight", "weights", "weights-file", "search"}
    left_out = ways if ways & flags.keys() else set()
    if "server" in flags:  # replaces the file's engine, as an engine replaces its servers
        left_out |= {"engine", *VLLM_KEYS}
    elif "engine" in flags:
        left_out |= {"server"}
    return {key: value for key, value in keys.items() if key not in left_out}


def _known_task(name: str) -> str:
    if name.startswith(f"{HARNESS}:"):
        raise ValueError("only eval and merge --search support lm-eval tasks")
    if name not in TASKS and not name.endswith(".toml"):
        raise ValueError(f"expected one of {', '.join(TASKS)}, or a .toml file")
    return name


TaskName = Annotated[str, AfterValidator(_known_task), locations.Names("task")]


class PromptSettings(ModelSettings):
    """The task and its prompt, which must be the same in training and evaluation."""

    panel: ClassVar[str | None] = "Task and prompt"

    task: TaskName = Field(
        default="massive",
        description="Task: massive, wmt23, uner, or the .toml file of your own task.",
    )
    prompt: Literal["paper", "authors-code", "zero-shot"] = Field(
        default="paper",
        description="System prompt for massive: the one in the paper's appendix D.2 (paper), the "
        "longer one in the authors' code (authors-code), or the paper's prompt for "
        "models that were not fine-tuned (zero-shot).",
    )
    system_prompt: str | None = Field(
        default=None, description="Your own system prompt; overrides --prompt."
    )
    chat_template: Path | None = Field(
        default=None,
        description="Use the chat template in this file (Jinja). Default: the tokenizer's own.",
    )
    turn_newline: bool = Field(
        default=False,
        description="Add a newline after each <|eot_id|>, as in the authors' training data for "
        "Llama 3.",
    )

    @classmethod
    def without_effect(cls, keys: Mapping[str, Any]) -> dict[str, str]:
        """Return the keys that have no effect with the others, and why."""
        if keys.get("system-prompt") is not None:
            return {"prompt": "with --system-prompt"}
        task = keys.get("task", "massive")
        return {} if task == "massive" else {"prompt": f"with --task {task}"}

    @model_validator(mode="before")
    @classmethod
    def _defaults_of_the_task(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        task = given.get("task", "massive")
        is_replaced = bool(given.get("chat"))  # by conversations, which have no languages
        defaults = {} if is_replaced else _TASK_DEFAULTS.get(cls.section, {}).get(str(task), {})
        if cls.section == "eval" and task != "massive":
            defaults = defaults | {"out": Path(f"eval-{Path(str(task)).stem}")}
        missing = {k: v for k, v in defaults.items() if not {k, k.replace("-", "_")} & given.keys()}
        return missing | given


class ScorerSettings(Settings):
    """How outputs are scored."""

    panel: ClassVar[str | None] = "Scoring"

    scorer: Literal["strict", "paper"] = Field(
        default="strict",
        description="Slot F1 over (type, value) pairs (strict), or as the authors' script counts "
        "it (paper).",
    )
    match: Literal["text", "offsets"] = Field(
        default="text", description="Entities match by type and text, or by type and offsets."
    )
    metrics: Names = Field(
        default=(), description="Metrics, comma-separated: bleu,chrf,comet for translation."
    )
    tokenize: Literal[
        "auto", "13a", "zh", "ja-mecab", "ko-mecab", "char", "intl", "flores200", "none"
    ] = Field(
        default="auto",
        description="BLEU's tokenizer; auto is zh for Chinese, ja-mecab for Japanese, ko-mecab for "
        "Korean if it is installed, otherwise 13a.",
    )
    src: Path | None = Field(
        default=None, description="Source sentences of a translation, one per line."
    )
    ref: tuple[Path, ...] = Field(
        default=(),
        description="Reference translations, one per line. Repeat the option for "
        "several references.",
    )
    comet_model: Annotated[str, locations.Names("checkpoint")] = Field(
        default="Unbabel/wmt22-comet-da",
        description="COMET model: a name on the Hub, or a local checkpoint.",
    )
    comet_python: Path | None = Field(
        default=None,
        description="Python interpreter of the environment in which COMET is installed.",
    )


# Each of these implies vLLM in this process.
VLLM_OPTIONS = {
    "tensor_parallel_size",
    "data_parallel_size",
    "gpu_memory_utilization",
    "max_lora_rank",
    "engine_args",
}
VLLM_KEYS = tuple(name.replace("_", "-") for name in sorted(VLLM_OPTIONS))
# Each of these is for servers.
SERVER_OPTIONS = {
    "server_model",
    "server_folder",
    "server_label",
    "server_requests",
    "server_timeout",
}


class EngineSettings(ModelSettings):
    """How answers are decoded, in all commands that decode."""

    panel: ClassVar[str | None] = "Engine"

    engine: Literal["auto", "vllm", "transformers"] = Field(
        default="auto",
        description="Engine. auto selects vLLM if it is installed and there is a GPU or a vLLM "
        "option. Otherwise it selects transformers, which is faster on a CPU.",
    )
    max_new_tokens: int = Field(
        default=128, gt=0, description="Maximum length of an answer, in tokens."
    )
    batch_size: int = Field(
        default=64, gt=0, description="Prompts per batch of the transformers engine."
    )
    cache: bool = Field(default=True, description="Reuse cached answers.")
    tensor_parallel_size: int = Field(
        default=1, gt=0, description="GPUs per copy of the model (vLLM)."
    )
    data_parallel_size: int = Field(default=1, gt=0, description="Copies of the model (vLLM).")
    gpu_memory_utilization: float = Field(
        default=0.9, gt=0, le=1, description="Fraction of GPU memory that vLLM may use."
    )
    max_lora_rank: int | None = Field(
        default=None,
        gt=0,
        description="Maximum LoRA rank of vLLM. Default: the largest rank of the adapters.",
    )
    engine_args: EngineArgs = Field(
        default={}, description="More arguments for the vLLM engine: JSON, or key=value,key=value."
    )
    server: ServerUrls = Field(
        default=(),
        description="Decode on these servers with OpenAI's completions API, such as vLLM's, "
        "instead of in this process: http://HOST:PORT, comma-separated. The key is read from "
        "ADAPTERMIX_SERVER_KEY or OPENAI_API_KEY.",
    )
    server_model: str | None = Field(
        default=None,
        description="Name of the base model on the servers. Default: the name or path in --model.",
    )
    server_folder: str | None = Field(
        default=None,
        description="Folder on storage shared with the servers, for copies of the adapters during "
        "the run; HERE=THERE if its path differs on the servers. Default: the temporary folder.",
    )
    server_label: str | None = Field(
        default=None,
        description="Your name for the servers' configuration. Cached answers are reused between "
        "servers with the same label. By default, they are reused only for the same server, until "
        "it restarts.",
    )
    server_requests: int = Field(
        default=128, gt=0, description="Prompts sent to each server at the same time."
    )
    server_timeout: float = Field(
        default=600.0, gt=0, description="Seconds to wait for a server's answer to a prompt."
    )

    @model_validator(mode="after")
    def _one_engine(self) -> "EngineSettings":
        if any("@" in url for url in self.server):
            raise ValueError(
                "--server: the address must not contain a user or password; set "
                "ADAPTERMIX_SERVER_KEY to the server's key"
            )
        if self.server and self.engine != "auto":
            raise ValueError(f"--server replaces --engine {self.engine}; remove one of them")
        given = sorted(VLLM_OPTIONS & self.model_fields_set)
        if self.server and given:
            raise ValueError(
                f"{flag_of(given[0])} is for vLLM in this process; with --server, pass it to "
                "the server when you start it"
            )
        return self


class DecodingSettings(EngineSettings, PromptSettings):
    """The languages and examples to decode, in tests and on dev data in a search."""

    panel: ClassVar[str | None] = "Data to test"

    langs: Names = Field(
        default=tuple(lang for group in PAPER_GROUPS.values() for lang in group),
        min_length=1,
        description="Languages to test, comma-separated.",
    )
    limit: int | None = Field(
        default=None, gt=0, description="Use the first N examples of each language."
    )


def notes_on_unused_keys(settings: Settings) -> list[str]:
    """Return notes on options that were given, and have no effect with the others."""
    return [
        f"{flag_of(key)} has no effect {why}"
        for key, why in settings.without_effect(settings.model_dump(by_alias=True)).items()
        if key.replace("-", "_") in settings.model_fields_set
    ]


def notes_on_languages(settings: PromptSettings) -> list[str]:
    """Note that a custom task uses the default languages because none were named."""
    if not settings.task.endswith(".toml") or "langs" in settings.model_fields_set:
        return []
    langs = " ".join(getattr(settings, "langs", ()))
    return [f"{settings.task} uses the languages of massive, {langs}; use --langs for others"]


def keys_of(kind: type[Settings]) -> list[str]:
    """Return the keys that a command's section in a file may have."""
    return [name.replace("_", "-") for name in kind.model_fields]


FLAGS = {"adapters": "--adapter"}  # options whose name differs from the key


def flag_of(key: str) -> str:
    """Return the command-line option of a key."""
    return FLAGS.get(key, f"--{key.replace('_', '-')}")


# Messages by the type of pydantic's error, whose own messages speak of inputs and strings.
_WANTED = {
    "tuple_type": "expected a list",
    "path_type": "expected a path",
    "string_type": "expected text",
    "dict_type": "expected a table",
    "dataclass_type": "expected a JSON object",
    "greater_than": "must be greater than {gt:g}",
    "greater_than_equal": "must be {ge:g} or greater",
    "less_than": "must be less than {lt:g}",
    "less_than_equal": "must be {le:g} or less",
    "finite_number": "must be a finite number",
    "literal_error": "must be {expected}",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_short": "must not be empty",
    "missing": "is missing",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "must be a whole number"),
    **dict.fromkeys(("int_parsing_size",), "is too large a number"),
    **dict.fromkeys(("float_type", "float_parsing"), "must be a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "must be true or false"),
}


def complaint(details: Mapping[str, Any]) -> str:
    """Return the message of a pydantic error in the user's terms.

    Args:
        details: One error of a validation.
    """
    context = details.get("ctx", {})
    if details["type"] == "too_short":
        return f"expected at least {context['min_length']}"
    if details["type"] in _WANTED:
        return _WANTED[details["type"]].format(**context)
    message = str(details["msg"]).removeprefix("Value error, ")
    return message if not details["loc"] else message[0].lower() + message[1:]


def with_value(message: str, value: object) -> str:
    """Add the value to a message about it, unless the message already names it."""
    return message if message.endswith("is listed twice") else f"{message}, not {value!r}"
