"""Download from the Hugging Face Hub, with errors a user can act on."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from adaptermix.errors import ArtifactError, DataError, ResourceError, first_line

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(?<!\.safetensors)")
# The hub runs no data set scripts any more; this branch holds its own parquet copies of them.
PARQUET_REVISION = "refs/convert/parquet"
OFFLINE_HINT = (
    "work on local files with --model PATH --data-dir PATH, or try `adaptermix demo`, "
    "which needs no network"
)


def hub_parquet(repo: str, config: str, split: str) -> list[Path]:
    """Fetch the parquet files of one configuration and split of a hub data set."""
    from huggingface_hub import HfApi, hf_hub_download

    with reaching_hub(f"the data set {repo} cannot be had from the hub"):
        names = HfApi().list_repo_files(repo, repo_type="dataset", revision=PARQUET_REVISION)
        wanted = sorted(
            name
            for name in names
            if name.endswith(".parquet")
            and name.split("/")[0] == config
            and split in name.removeprefix(config).replace("/", "-").replace(".", "-").split("-")
        )
        paths = [
            hf_hub_download(repo, name, repo_type="dataset", revision=PARQUET_REVISION)
            for name in wanted
        ]
    if not paths:
        raise DataError(f"the hub's {repo} has no {split} part of '{config}'")
    return [Path(path) for path in paths]


def hub_errors() -> tuple[type[Exception], ...]:
    """Return what huggingface_hub raises when something cannot be had.

    Its own errors are OSErrors; those of the HTTP client below it are not, and the client is
    another one from release to release.
    """
    from huggingface_hub.errors import HTTPError

    return OSError, HTTPError


@contextmanager
def reaching_hub(failure: str, hint: str = OFFLINE_HINT) -> Iterator[None]:
    """Say what failed where the hub cannot be reached or has not what is asked for.

    Raises:
        ResourceError: Something cannot be had from the hub.
    """
    try:
        yield
    except hub_errors() as error:
        raise ResourceError(f"{failure}: {first_line(error)}", hint=hint) from error


# What a decoder reads, and no pickles, original checkpoints or other frameworks' weights. Code is
# run with --trust-remote-code only; --into copies it beside the weights.
_MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.tiktoken", "*.jinja", "*.txt", "*.py")


def fetch(name: str, revision: str | None) -> Path:
    """Download a model's files from the hub and return their folder.

    Raises:
        ArtifactError: The name is not one of a model.
        ResourceError: The hub cannot be reached, or has no such model.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    with reaching_hub(f"the model {name} is no folder here and cannot be had from the hub"):
        try:
            folder = snapshot_download(name, revision=revision, allow_patterns=list(_MODEL_FILES))
        except HFValidationError as error:
            raise ArtifactError(
                f"{name}: neither a folder nor a hub name",
                hint="name the folder of a saved model, or a model on the hub, OWNER/NAME",
            ) from error
    return Path(folder)
