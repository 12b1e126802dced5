"""The lock file of a development environment keeps to the bounds of the package."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKED = [
    Requirement(line)
    for line in (ROOT / "requirements-dev.lock").read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
]


def required(extra):
    """Return what an extra of the package needs, other extras of its own taken apart."""
    found = []
    for requirement in map(Requirement, PROJECT["optional-dependencies"][extra]):
        if requirement.name == PROJECT["name"]:
            found += [each for name in sorted(requirement.extras) for each in required(name)]
        else:
            found.append(requirement)
    return found


def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_dependency_is_locked_within_its_bounds(python):
    place = {
        **default_environment(),
        "python_version": python,
        "python_full_version": f"{python}.0",
    }
    place |= {"sys_platform": "linux", "platform_machine": "x86_64", "extra": ""}
    locked = {
        plain(one.name): next(iter(one.specifier)).version
        for one in LOCKED
        if one.marker is None or one.marker.evaluate(place)
    }
    needed = [Requirement(one) for one in PROJECT["dependencies"]] + required("dev")
    needed = [one for one in needed if one.marker is None or one.marker.evaluate(place)]
    assert len(needed) > 30
    for requirement in needed:
        version = locked.get(plain(requirement.name))
        assert version is not None, requirement
        assert requirement.specifier.contains(version, prereleases=True), (requirement, version)


def test_the_lock_file_names_no_place_to_download_from():
    assert not [one for one in LOCKED if one.url]
    text = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index-url" not in text
