"""What holds of the progress of every command."""

from itertools import pairwise


def check_progress(events):
    """Progress only grows, and a piece of work ends when all of it is done."""
    for one, other in pairwise(events):
        if other.done == 0 or other.total != one.total:  # other work begins
            assert one.done == (one.total or 0)
        else:
            assert other.done >= one.done
    assert events[-1].done == events[-1].total > 0
