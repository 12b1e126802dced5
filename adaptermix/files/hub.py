"""Download from the Hugging Face Hub, with actionable errors."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from adaptermix.errors import ArtifactError, MissingDataError, ResourceError, first_line

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*(?<!\.safetensors)")
_PLACE = re.compile(
    r"(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?P<folder>(/[\w-][\w.-]*)*)"
    r"(@(?P<revision>[\w.-]+(/[\w.-]+)*))?"
)
_URL = re.compile(  # a path keeps only one slash after the colon
    r"https?:/{1,2}(huggingface\.co|hf\.co)/(?P<repository>[\w.-]+/[\w.-]+)"
    r"(/(tree|blob)/(?P<revision>refs/\w+/[^/]+|[^/]+)(?P<folder>(/[^/]+)*))?/?"
)


@dataclass(frozen=True)
class HubPlace:
    """A repository on the Hub, or a folder in it.

    Attributes:
        repository: ``OWNER/NAME``.
        folder: Path of the folder, or empty for the whole repository.
        revision: Branch, tag or commit, or None for the main branch.
    """

    repository: str
    folder: str = ""
    revision: str | None = None

    def __str__(self) -> str:
        """Return the form that ``hub_place`` parses: ``OWNER/NAME/FOLDER@REVISION``."""
        name = "/".join(filter(None, (self.repository, self.folder)))
        return f"{name}@{self.revision}" if self.revision else name


def hub_place(text: str, beside: Path = Path()) -> HubPlace | None:
    """Parse ``OWNER/NAME[/FOLDER][@REVISION]`` or the URL of such a page on the Hub.

    A name that starts with an existing folder is a path, and None is returned, unless it has a
    revision and no further folder.

    Args:
        text: A possible place on the Hub.
        beside: The folder that paths are relative to.
    """
    url = _URL.fullmatch(unquote(text).partition("?")[0])
    found = url or _PLACE.fullmatch(text)
    if found is None:
        return None
    repository, folder = found["repository"], (found["folder"] or "").strip("/")
    begins_here = (beside / repository.partition("/")[0]).is_dir()
    if not url and (
        f"{repository}/{folder}".rstrip("/").endswith(".safetensors")
        or (begins_here and (folder or not found["revision"]))
    ):
        return None
    return HubPlace(repository, folder, found["revision"])


def path_of(text: str) -> Path:
    """Return a name on the command line or in settings as a path.

    A missing path that starts with ``./`` becomes absolute, because pathlib drops the ``./`` and
    the rest would read as a place on the Hub.
    """
    path = Path(text)
    return path.absolute() if text.startswith("./") and not path.exists() else path


def hint_of_path(text: str, hub_name: str) -> str | None:
    """Return a hint if a possible Hub name is read as a path because its first folder exists.

    Args:
        text: The missing path.
        hub_name: How to request it from the Hub instead.
    """
    first = text.partition("/")[0]
    if not HUB_NAME.fullmatch(text) or not Path(first).is_dir():
        return None
    return f"the folder {first} exists, so this is used as a path; for the Hub, use: {hub_name}"


# The Hub no longer runs data set scripts; this branch holds its parquet copies of their data.
PARQUET_REVISION = "refs/convert/parquet"
OFFLINE_HINT = (
    "work on local files with --model PATH --data-dir PATH, or try `adaptermix demo`, "
    "which needs no network"
)


def hub_parquet(repo: str, config: str, split: str) -> list[Path]:
    """Download the parquet files of one configuration and split of a data set on the Hub."""
    from huggingface_hub import HfApi, hf_hub_download

    with reaching_hub(f"the data set {repo} could not be downloaded from the Hub"):
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
        raise MissingDataError(f"{repo} on the Hub has no {split} split of '{config}'")
    return [Path(path) for path in paths]


def hub_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that huggingface_hub raises if a download fails.

    Its own errors are OSErrors. Those of the underlying HTTP client are not, and the client differs
    between releases.
    """
    from huggingface_hub.errors import HTTPError

    return OSError, HTTPError


@contextmanager
def reaching_hub(failure: str, hint: str = OFFLINE_HINT) -> Iterator[None]:
    """Convert errors of the Hub into one that names what failed.

    Raises:
        ResourceError: The Hub cannot be reached, or it does not have the requested item.
    """
    try:
        yield
    except hub_errors() as error:
        raise ResourceError(f"{failure}: {first_line(error)}", hint=hint) from error


# The files that a decoder needs, without pickles, original checkpoints and other frameworks'
# weights. Code is only run with --trust-remote-code; --into copies it to the output folder.
MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.tiktoken", "*.jinja", "*.txt", "*.py")
# Copies of the weights, and adapters beside them. A pattern's star also stands for slashes.
_NOT_READ = ("*/*.safetensors", "consolidated*", "adapter_config.json", "adapter_model*")


def fetch(name: str, revision: str | None, files: Sequence[str] = MODEL_FILES) -> Path:
    """Download a model's files from the Hub and return their folder.

    Raises:
        ArtifactError: The name is not a valid Hub name, or it is read as a missing folder.
        ResourceError: The Hub cannot be reached, or it does not have the model.
    """
    hint = None if revision else hint_of_path(name, "--revision main")
    if hint or name.startswith((".", "/", "~")):
        raise ArtifactError(
            f"{name}: no such folder",
            hint=hint or "name the folder of a saved model, or a model on the Hub as OWNER/NAME",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    with reaching_hub(
        f"the model {name} is not a local folder, and could not be downloaded from the Hub"
    ):
        try:
            folder = snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(files),
                ignore_patterns=list(_NOT_READ),
            )
        except HFValidationError as error:
            raise ArtifactError(
                f"{name}: neither a local folder nor a name on the Hub",
                hint="name the folder of a saved model, or a model on the Hub as OWNER/NAME",
            ) from error
    return Path(folder)
