"""Download from the Hugging Face Hub, with errors a user can act on."""

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
_URL = re.compile(  # a path keeps one slash behind the colon
    r"https?:/{1,2}(huggingface\.co|hf\.co)/(?P<repository>[\w.-]+/[\w.-]+)"
    r"(/(tree|blob)/(?P<revision>refs/\w+/[^/]+|[^/]+)(?P<folder>(/[^/]+)*))?/?"
)


@dataclass(frozen=True)
class HubPlace:
    """A repository on the hub, or a folder in it.

    Attributes:
        repository: ``OWNER/NAME``.
        folder: Path of the folder, or nothing for the whole repository.
        revision: Branch, tag or commit, or None for the main branch.
    """

    repository: str
    folder: str = ""
    revision: str | None = None

    def __str__(self) -> str:
        """Return what ``hub_place`` reads: ``OWNER/NAME/FOLDER@REVISION``."""
        name = "/".join(filter(None, (self.repository, self.folder)))
        return f"{name}@{self.revision}" if self.revision else name


def hub_place(text: str, beside: Path = Path()) -> HubPlace | None:
    """Read ``OWNER/NAME[/FOLDER][@REVISION]`` or the address of such a page on the hub.

    Args:
        text: What may name a place on the hub.
        beside: The folder that paths start from; what begins with the name of a folder there is
            a path, unless a revision is named.
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
    """Return the path that a name on the command line or in settings is.

    One that begins with ``./`` stays a path where nothing is: without that it reads as a place on
    the hub, and pathlib drops it.
    """
    path = Path(text)
    return path.absolute() if text.startswith("./") and not path.exists() else path


def hint_of_path(text: str, hub_name: str) -> str | None:
    """Return why the hub is not asked for what could be a name there, if that is so.

    Args:
        text: What is not here.
        hub_name: How to ask the hub for it all the same.
    """
    first = text.partition("/")[0]
    if not HUB_NAME.fullmatch(text) or not Path(first).is_dir():
        return None
    return f"the folder {first} exists, so this is read as a path; from the Hub: {hub_name}"


# The hub runs no data set scripts any more; this branch holds its own parquet copies of them.
PARQUET_REVISION = "refs/convert/parquet"
OFFLINE_HINT = (
    "work on local files with --model PATH --data-dir PATH, or try `adaptermix demo`, "
    "which needs no network"
)


def hub_parquet(repo: str, config: str, split: str) -> list[Path]:
    """Fetch the parquet files of one configuration and split of a hub data set."""
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
        ResourceError: Something could not be downloaded from the Hub.
    """
    try:
        yield
    except hub_errors() as error:
        raise ResourceError(f"{failure}: {first_line(error)}", hint=hint) from error


# What a decoder reads, and no pickles, original checkpoints or other frameworks' weights. Code is
# run with --trust-remote-code only; --into copies it beside the weights.
MODEL_FILES = ("*.json", "*.safetensors", "*.model", "*.tiktoken", "*.jinja", "*.txt", "*.py")


def fetch(name: str, revision: str | None, files: Sequence[str] = MODEL_FILES) -> Path:
    """Download a model's files from the hub and return their folder.

    Raises:
        ArtifactError: The name is not one of a model.
        ResourceError: The hub cannot be reached, or has no such model.
    """
    hint = None if revision else hint_of_path(name, "--revision main")
    if hint or name.startswith((".", "/", "~")):
        raise ArtifactError(
            f"{name}: no such folder",
            hint=hint or "name the folder of a saved model, or a model on the hub, OWNER/NAME",
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    with reaching_hub(
        f"the model {name} is not a local folder, and could not be downloaded from the Hub"
    ):
        try:
            folder = snapshot_download(name, revision=revision, allow_patterns=list(files))
        except HFValidationError as error:
            raise ArtifactError(
                f"{name}: neither a local folder nor a name on the Hub",
                hint="name the folder of a saved model, or a model on the Hub as OWNER/NAME",
            ) from error
    return Path(folder)
