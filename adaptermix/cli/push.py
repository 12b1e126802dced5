"""Upload adapters and models to the Hub."""

import shutil
import tempfile
from pathlib import Path

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.card import FILE_NAME, can_write_card, card_path
from adaptermix.adapters.writing import copy_adapter
from adaptermix.errors import AdaptermixError, ConfigError, ResourceError, first_line
from adaptermix.files.hub import HUB_NAME, hub_errors


def check_push(repository: str) -> None:
    """Check what can be checked before hours of work: the repository's name and the token.

    Raises:
        ConfigError: The name is not a valid repository name.
        ResourceError: There is no token, or ``HF_HUB_OFFLINE`` is set.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ConfigError(f"--push-to-hub {repository}: {first_line(error)}") from error
    if not HUB_NAME.fullmatch(repository):
        raise ConfigError(f"--push-to-hub {repository}: name a repository as OWNER/NAME")
    if constants.HF_HUB_OFFLINE:
        raise ResourceError(
            f"--push-to-hub {repository}: HF_HUB_OFFLINE is set", hint="unset HF_HUB_OFFLINE"
        )
    if get_token() is None:
        raise ResourceError(
            f"--push-to-hub {repository}: no Hub token was found",
            hint="create a token with write access, then run: hf auth login, or set HF_TOKEN",
        )


def push(path: Path, repository: str, *, private: bool = False) -> str:
    """Upload an output to a repository in one commit; create the repository if needed.

    All files of a folder are uploaded. A single-file adapter is uploaded as the two files that
    PEFT reads. Other files in the repository are kept.

    Args:
        path: A folder, or an adapter's ``.safetensors`` file.
        repository: ``OWNER/NAME``.
        private: Make a new repository private; an existing one is not changed.

    Returns:
        The URL of the repository.

    Raises:
        ConfigError, ResourceError: As for ``check_push``, or the Hub refuses the upload or
            cannot be reached.
    """
    from huggingface_hub import HfApi

    check_push(repository)
    # huggingface_hub raises ValueError for a refused card or file, hf_xet raises RuntimeError.
    refusals: tuple[type[Exception], ...] = (*hub_errors(), ValueError, RuntimeError)
    api = HfApi()
    try:
        with tempfile.TemporaryDirectory(prefix="adaptermix-hub-") as scratch:
            folder = path if path.is_dir() else _as_folder(path, Path(scratch) / path.stem)
            made = api.create_repo(repository, private=private or None, exist_ok=True)
            api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message="Upload with adaptermix",
            )
    except refusals as error:
        raise _failure(path, repository, error) from error
    return str(made)


def _as_folder(path: Path, folder: Path) -> Path:
    """Write a single-file adapter as a PEFT folder, with its record, and its card if it has one."""
    copy_adapter(read_adapter(path), folder)
    if (card := card_path(path)).is_file() and not can_write_card(card):  # a person wrote it
        shutil.copyfile(card, folder / FILE_NAME)
    return folder


def _failure(path: Path, repository: str, error: Exception) -> AdaptermixError:
    answer = getattr(error, "response", None)
    status = getattr(answer, "status_code", None)
    why = getattr(error, "server_message", None) or first_line(error)
    if status in (401, 403):
        return ResourceError(
            f"{repository}: the Hub refused the upload ({status}): {why}",
            hint=f"{path} is complete; the token needs write access to "
            f"{repository.partition('/')[0]}: hf auth login, or HF_TOKEN",
        )
    again = f"hf upload {repository} {path}"
    if not path.is_dir():
        again = f"adaptermix merge {path} --weights 1 -o FOLDER --push-to-hub {repository}"
    return ResourceError(
        f"{repository}: the upload failed: {why}",
        hint=f"{path} is complete; to upload it later: {again}",
    )
