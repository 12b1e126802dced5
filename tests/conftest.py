"""Tiny models made from configs, tiny corpora, no network."""

import atexit
import gc
import os
import shutil
import tempfile
from functools import cache

os.environ["HF_HUB_OFFLINE"] = "1"  # a test that needs the hub points it at a local server
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp()  # code of models; the user's is left alone
os.environ.pop("COLUMNS", None)  # Rich keeps for good the width that it finds at its import
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["OMP_NUM_THREADS"] = "1"  # tiny models gain nothing by more, and bits stay the same

from pathlib import Path

import pytest
import torch
import typer.main
import typer.testing
from helpers.corpus import write_corpus
from helpers.models import LAYOUTS, save_model
from hypothesis import settings

settings.register_profile("adaptermix", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("adaptermix")

# Typer builds all commands anew for each call, about 60 ms; a command is the same after a call.
typer.main.get_command = typer.testing._get_command = cache(typer.main.get_command)

# These come first, so that of two processes neither is left alone with one of them at the end.
LONGEST = (
    "test_demo.py",
    "test_vllm.py",
    "test_recorded.py",
    "test_paper_recipes.py",
    "test_servers.py",
    "test_every_option_training.py",
    "test_ray.py",
    "test_recipe.py",
)
SYSTEM = Path(__file__).parent / "system"


def pytest_collection_finish() -> None:
    """Keep the libraries' objects out of each collection: 0.3 s after every step of a recipe."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # libraries that look for leaks at the end find none


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {SYSTEM / name: at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


torch.set_num_threads(1)
atexit.register(shutil.rmtree, os.environ["HF_MODULES_CACHE"], ignore_errors=True)


@pytest.fixture(autouse=True)
def threads_as_before():
    """A test that pins torch's threads does so for itself: sums are rounded by their number."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def answer_cache(tmp_path, monkeypatch) -> Path:
    """Give every test a cache of its own, and leave the user's alone."""
    monkeypatch.setenv("ADAPTERMIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory) -> Path:
    return save_model(tmp_path_factory.mktemp("models") / "llama")


@pytest.fixture(scope="session", params=sorted(LAYOUTS))
def layout_dir(request, tmp_path_factory) -> Path:
    """A model folder of every decoder layout."""
    return save_model(tmp_path_factory.mktemp("layouts") / request.param, request.param)


@pytest.fixture(scope="session")
def corpus_dir(tmp_path_factory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus")


@pytest.fixture(scope="module")
def datasets_cache(tmp_path_factory):
    """Keep what datasets makes of local files out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        yield
