"""What a cluster is asked and told; runs on a real one are in system/test_ray.py."""

from types import SimpleNamespace

import pytest

from adaptermix.commands.catalog import COMMANDS
from adaptermix.progress import Progress
from adaptermix.recipes.cluster import Cluster, _amount, _Inbox
from adaptermix.recipes.resources import Resources


def test_an_inbox_keeps_every_note_and_the_last_event_of_each_step_until_it_is_taken():
    inbox = _Inbox()
    first, last, other = (Progress("s", done, 9) for done in (1, 2, 3))
    notes = [Progress("", 0, None, note=text) for text in ("one", "two")]
    for name, event in (("a", first), ("a", notes[0]), ("b", other), ("a", last), ("a", notes[1])):
        inbox.put(name, event)
    assert inbox.take() == [("a", notes[0]), ("a", notes[1]), ("a", last), ("b", other)]
    assert inbox.take() == []
    inbox.put("b", other)
    assert inbox.take() == [("b", other)]


@pytest.mark.parametrize("gpus", [0, 4])
def test_a_step_asks_for_what_it_states_even_if_that_is_nothing(gpus):
    cluster = Cluster.__new__(Cluster)
    cluster._ray = SimpleNamespace(cluster_resources=lambda: {"GPU": gpus})

    def asked(command, settings=None, **resources):
        step = SimpleNamespace(
            command=COMMANDS[command], settings=settings, resources=Resources(**resources)
        )
        return tuple(cluster._asked(step).values())

    own = 1.0 if gpus else 0.0
    assert asked("train-task") == (1, own, 0)
    assert asked("eval") == (1, own, 0)
    assert asked("merge", SimpleNamespace(search=None)) == (1, 0, 0)
    assert asked("merge", SimpleNamespace(search="auto")) == (1, own, 0)
    on_server = {"server": ("http://host/v1",)}
    assert asked("eval", SimpleNamespace(**on_server)) == (1, 0, 0)
    assert asked("merge", SimpleNamespace(search="auto", **on_server)) == (1, 0, 0)
    assert asked("merge", SimpleNamespace(search="learn", **on_server)) == (1, own, 0)
    assert asked("train-task", cpus=0, gpus=0, memory=5) == (0, 0, 5)
    assert asked("merge", SimpleNamespace(search=None), cpus=0.5, gpus=2) == (0.5, 2, 0)


def test_an_amount_of_memory_is_shown_in_gigabytes():
    assert _amount("memory", 24e9) == "24.0 GB"
    assert _amount("CPU", 2.0) == "2"
