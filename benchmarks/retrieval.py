"""Translation retrieval compared with LASER's xsim: the same answers, and the time of each.

    git clone https://github.com/facebookresearch/LASER
    python benchmarks/retrieval.py LASER/source/xsim.py

Requires ``faiss-cpu`` (``pip install "adaptermix[benchmarks]"``). For every layer and language, a
matrix of random sentence vectors is the sum of a meaning and a mean, which all languages share, and
noise, which is smaller in the middle layers. xsim runs for every ordered pair, as it is used in
practice. adaptermix runs once per pair for both directions, and normalizes the vectors each time,
which ``adaptermix retrieval`` does once per layer. Both use the same number of threads.
Measurements of a layer's pairs alternate: xsim, adaptermix, matrix product. The full set has 35
languages (1,190 ordered pairs) in 25 layers, like a model with 24 blocks of that width (BLOOM 560M,
Pythia 410M), and takes an hour and a half. Time is proportional to the number of pairs, so
``--pairs`` measures only some of them. With one thread, CPU time is measured, which other jobs on
the machine affect less than wall time.

Both compute in float32 and sum products in different orders, so sentences whose cosines or scores
differ only by rounding may change places. Answers that differ are therefore checked in float64: an
answer may fall short of the fourth nearest cosine, and of the best score among sentences that are
clearly as near, by at most one millionth. Otherwise the benchmark stops.
"""

import argparse
import importlib.util
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import faiss
import numpy as np
import torch

from adaptermix.retrieval.margin import normalized, retrieve

_ROUNDING = 1e-6


def main() -> None:
    """Measure and compare, then print a table."""
    parser = argparse.ArgumentParser(description="Retrieval against LASER's xsim.")
    parser.add_argument("xsim", type=Path, help="LASER's source/xsim.py")
    parser.add_argument("--langs", type=int, default=35)
    parser.add_argument("--layers", type=int, default=25)
    parser.add_argument("--pairs", type=int, help="Measure N random pairs of each layer only.")
    parser.add_argument("--skip", type=int, default=0, help="Leave out the first N pairs of each.")
    parser.add_argument("--sentences", type=int, default=997)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    faiss.omp_set_num_threads(given.threads)
    clock = time.process_time if given.threads == 1 else time.perf_counter
    xsim = _Xsim(given.xsim)
    rng = np.random.default_rng(0)
    everything = [(a, b) for a in range(given.langs) for b in range(a + 1, given.langs)]
    seconds: dict[str, list[float]] = {"xsim": [], "adaptermix": [], "matrix product": []}
    accuracies, gaps, answers = [], [], 0
    for layer in range(given.layers):
        vectors = _layer(rng, layer, given)
        last = given.skip + (given.pairs or len(everything))
        for place in rng.permutation(len(everything))[given.skip : last]:
            found = _measured(xsim, *(vectors[lang] for lang in everything[place]), seconds, clock)
            accuracies.append(found[0])
            gaps += found[1]
            answers += 2 * given.sentences
        print(f"layer {layer}: {_ratio(seconds):.1f} x so far", file=sys.stderr, flush=True)
    _print(seconds, given, len(everything))
    low, high = min(accuracies), max(accuracies)
    print(f"accuracy {low:.3f} to {high:.3f}; {len(gaps)} of {answers:,} answers differ")
    if gaps:
        print(
            f"the worse of the two falls short by {max(gaps):.1g} of a cosine or score, in float64"
        )
    if any(gap > _ROUNDING for gap in gaps):
        raise SystemExit("the answers are not the same")


class _Xsim:
    """LASER's xSIM, loaded from its file, with the answers that it counted errors in."""

    def __init__(self, path: Path) -> None:
        spec = importlib.util.spec_from_file_location("xsim", path)
        if spec is None or spec.loader is None:
            raise SystemExit(f"{path}: no Python file")
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.error_rate = module.xSIM
        self.answers: list[np.ndarray] = []
        search = module._score_knn

        def kept(*given: Any) -> np.ndarray:
            found: np.ndarray = search(*given)
            self.answers.append(found[:, 0])
            return found

        module._score_knn = kept  # avoids a second search


def _layer(rng: np.random.Generator, layer: int, given: argparse.Namespace) -> list[np.ndarray]:
    """Generate one layer's vectors of all languages, in float32."""
    shape = (given.sentences, given.width)
    draw: Callable[[], np.ndarray] = lambda: rng.standard_normal(shape, dtype=np.float32)  # noqa: E731
    meaning = draw() + 3 * rng.standard_normal((1, given.width), dtype=np.float32)
    noise = 2 + 4 * abs(2 * layer / max(1, given.layers - 1) - 1)
    return [meaning + np.float32(noise) * draw() for _ in range(given.langs)]


def _measured(
    xsim: _Xsim,
    source: np.ndarray,
    target: np.ndarray,
    seconds: dict[str, list[float]],
    clock: Callable[[], float],
) -> tuple[float, list[float]]:
    """Time one pair in both directions; return the accuracy and shortfalls of differing answers."""
    copies = [(source.copy(), target.copy()), (target.copy(), source.copy())]  # xSIM edits them
    xsim.answers.clear()
    start = clock()
    for x, y in copies:
        xsim.error_rate(x, y, margin="ratio", k=4)
    seconds["xsim"].append(clock() - start)
    left, right = torch.from_numpy(source), torch.from_numpy(target)
    start = clock()
    found = retrieve(normalized(left), normalized(right))
    seconds["adaptermix"].append(clock() - start)
    start = clock()
    _ = left @ right.mT
    seconds["matrix product"].append(clock() - start)
    gaps = []
    owns = (found.targets, found.sources)
    for (x, y), theirs, own in zip(copies, xsim.answers, owns, strict=True):
        if rows := np.flatnonzero(theirs != own.numpy()).tolist():
            cosines, scores = _exact(x, y)
            gaps += [
                max(_shortfall(cosines[r], scores[r], answers[r]) for answers in (theirs, own))
                for r in rows
            ]
    return found.forward_accuracy, gaps


def _exact(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines and margin scores of all pairs of sentences, in float64."""
    cosines = x.astype(np.float64) @ y.astype(np.float64).T
    cosines /= np.linalg.norm(x.astype(np.float64), axis=1)[:, None]
    cosines /= np.linalg.norm(y.astype(np.float64), axis=1)
    means = [np.sort(side, axis=1)[:, -4:].mean(axis=1) for side in (cosines, cosines.T)]
    return cosines, cosines / ((means[0][:, None] + means[1]) / 2)


def _shortfall(cosines: np.ndarray, scores: np.ndarray, answer: int) -> float:
    """Return how far an answer is from being one of the nearest 4 and the best of them.

    The best score is taken only over sentences clearly nearer than the fifth nearest.
    """
    fifth, fourth = np.sort(cosines)[-5:-3]
    best = scores[cosines > fifth * (1 + _ROUNDING)].max()
    return float(max(1 - cosines[answer] / fourth, 1 - scores[answer] / best, 0.0))


def _ratio(seconds: dict[str, list[float]]) -> float:
    return median(seconds["xsim"]) / median(seconds["adaptermix"])


def _print(seconds: dict[str, list[float]], given: argparse.Namespace, pairs: int) -> None:
    measured = len(seconds["xsim"])
    print(
        f"{measured:,} of {pairs * given.layers:,} pairs, both directions, of {given.langs} "
        f"languages in {given.layers} layers; {given.sentences} sentences, width {given.width}, "
        f"{given.threads} thread(s), {'processor time' if given.threads == 1 else 'wall clock'}\n"
    )
    print("| | ms a pair | lowest | highest | all pairs, s | x product |")
    print("|---|---|---|---|---|---|")
    floor = median(seconds["matrix product"])
    for name, times in seconds.items():
        middle = median(times)
        numbers = [f"{1000 * value:.1f}" for value in (middle, min(times), max(times))]
        whole = sum(times) / measured * pairs * given.layers
        print(f"| {name} | {' | '.join(numbers)} | {whole:,.0f} | {middle / floor:.1f} |")
    print(f"\nxsim takes {_ratio(seconds):.1f} times as long as adaptermix (medians)")


if __name__ == "__main__":
    main()
