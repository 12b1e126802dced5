"""Settings of the commands that score a model's answers: `eval`, and `merge` with its search."""

from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, model_validator

from adaptermix.settings import locations
from adaptermix.settings.shared import (
    HARNESS,
    NOT_OF_HARNESS,
    TASKS,
    VLLM_KEYS,
    DecodingSettings,
    ScorerSettings,
    flag_of,
    harness_tasks,
)


def _known_test(name: str) -> str:
    if name not in TASKS and not name.endswith(".toml") and not harness_tasks(name):
        raise ValueError(
            f"expected one of {', '.join(TASKS)}, a .toml file, or {HARNESS}:NAME for lm-eval tasks"
        )
    return name


class ScoredSettings(DecodingSettings, ScorerSettings):
    """A task of this package or lm-eval tasks, and how answers to them are scored."""

    panel: ClassVar[str | None] = "Data to test"

    task: Annotated[str, AfterValidator(_known_test), locations.Names("task")] = Field(
        default="massive",
        description="Task: massive, wmt23, uner, the .toml file of your own task, or tasks of "
        "lm-evaluation-harness: lm-eval:NAME,NAME.",
    )
    lm_eval_path: Path | None = Field(
        default=None,
        description="Folder with your own lm-eval tasks, as YAML files. Python functions that the "
        "files refer to are run.",
    )

    @model_validator(mode="before")
    @classmethod
    def _asked_by_lm_eval(cls, given: Any) -> Any:
        """Refuse options that do not apply to lm-eval tasks, and use the tasks as languages."""
        if not isinstance(given, dict):
            return given
        keys = {key.replace("_", "-"): value for key, value in given.items()}
        names = harness_tasks(keys.get("task"))
        if not names:
            if keys.get("lm-eval-path") is not None:
                raise ValueError(f"--lm-eval-path needs --task {HARNESS}:NAME")
            return given
        for key in NOT_OF_HARNESS:
            if keys.get(key) not in (None, (), []):
                raise ValueError(
                    f"{flag_of(key)} does not apply to lm-eval tasks, which define their own "
                    "prompts and scoring; remove it"
                )
        for key in ("server", *VLLM_KEYS):
            if keys.get(key):
                raise ValueError(
                    f"{flag_of(key)}: lm-eval tasks run only on the transformers engine; remove it"
                )
        if keys.get("engine", "auto") not in ("auto", "transformers"):
            raise ValueError(
                f"--engine {keys['engine']}: lm-eval tasks run only on the transformers engine"
            )
        return given | {"engine": "transformers", "langs": names}

    @model_validator(mode="after")
    def _files_are_of_one_pair(self) -> "ScoredSettings":
        if (self.src is None) != (not self.ref):
            raise ValueError("give --src and --ref together")
        if self.src is not None and (len(self.langs) != 1 or self.task != "wmt23"):
            raise ValueError(
                "--src works with one language pair, such as --task wmt23 --langs en-de"
            )
        return self
