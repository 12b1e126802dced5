"""Queues of requests: which adapters are in them, and in which order prompts come."""

from itertools import groupby

from hypothesis import given
from hypothesis import strategies as st

from adaptermix.generation.engine import Request, compose_queues


@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 9), st.sampled_from([None, "a", "b", "c"]), st.sampled_from("xy")),
        max_size=12,
    ),
    room=st.integers(0, 4),
)
def test_queues_hold_few_adapters_and_long_prompts_first_whatever_their_language(shapes, room):
    requests = [Request([0] * length, adapter, group) for length, adapter, group in shapes]
    queues = list(compose_queues(requests, room))
    assert sorted(index for _, mine in queues for index in mine) == list(range(len(requests)))
    held = [adapter for adapters, _ in queues for adapter in adapters]
    assert held == list(dict.fromkeys(r.adapter for r in requests if r.adapter is not None))
    for number, (adapters, mine) in enumerate(queues):
        assert len(adapters) <= max(1, room)
        systems = [system for system, _ in groupby(mine, key=lambda i: requests[i].adapter)]
        assert len(systems) == len(set(systems)), "all prompts of a system come together"
        assert set(systems) <= {*adapters, *([None] if number == 0 else [])}
        for _, indices in groupby(mine, key=lambda i: requests[i].adapter):
            lengths = [len(requests[index].prompt_ids) for index in indices]
            assert lengths == sorted(lengths, reverse=True)
