"""The report of a training run: its plan and its result."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from pathlib import Path
from typing import Any

from blake3 import blake3

from adaptermix.adapters.stacking import stack_record, stack_terms
from adaptermix.files.outputs import Report, real_path
from adaptermix.settings.locations import Location, paths_of
from adaptermix.settings.training import TrainSettings, notes_on_training
from adaptermix.tables import Row, View, counted, number_of, pairs
from adaptermix.training.batches import token_count
from adaptermix.training.memory import Footprint
from adaptermix.training.preview import Previewed, preview_lines
from adaptermix.training.steps import planned_steps

_ALIKE = 0.9  # mean cosine of unrelated sentences


def _done(report: "TrainReport") -> list[Row]:
    rows: list[Row] = [
        ["steps", f"{report.steps:,} of at most {report.planned_steps:,}"],
        ["trained", f"{report.trainable_parameters:,} parameters"],
    ]
    if report.layers:
        skip = report.layers["pool_skip"]
        first = number_of(skip, "token") if skip > 1 else "token"
        told = f"; without the first {first}" if skip else ""
        rows.append(["aligned", f"layer {report.layers['layer']}{told}"])
        rows.append(["retrieval by layer before training", curve_of(report.layers)])
    for name, value in report.dev.items():
        rows.append([f"dev {name.replace('_', ' ')}", _dev(name, value)])
    for name, dev in report.candidates.items():
        scores = "  ".join(
            f"{score.replace('_', ' ')} {_dev(score, v)}" for score, v in dev.items()
        )
        rows.append([f"temperature {name}{' (kept)' if name == report.kept else ''}", scores])
    rows.append(["time", f"{report.seconds:.0f} s"])
    rows += [["log", str(report.log)], ["adapter", report.out]]
    if report.dev.get("random_cosine_of_base", 0.0) > _ALIKE:
        alike = (
            "in the base model, all dev sentences look alike: one constant hidden state dominates "
            "their means"
        )
        advice = "" if report.layers else "; try --layer auto and --pool-skip auto"
        rows.append(["note", alike + advice])
    return rows


def _dev(name: str, value: float) -> str:
    """Format a score on dev data, accuracies in percent like the curve by layer."""
    return f"{value:.1%}" if "accuracy" in name else f"{value:.4f}"


def _planned(report: "TrainReport") -> list[Row]:
    trained, held = report.trainable_parameters, report.held_parameters
    return [
        ["steps", f"at most {report.planned_steps:,}"],
        ["tokens", f"at most {report.tokens:,}"],
        ["parameters", f"{trained:,} trained, {held:,} frozen"],
        ["memory", f"about {(report.memory_bytes or 0) / 1e9:,.2f} GB"],
        ["would write", report.out],
    ]


_OPTIONAL = {"on", "layers", "preview"}  # left out of the JSON if empty


def curve_of(layers: Mapping[str, Any]) -> str:
    """Format the retrieval accuracies of all layers on one line."""
    return "  ".join(f"{at} {value:.1%}" for at, value in enumerate(layers["accuracy"], start=1))


# Settings that may change on resume: none of them changes the adapter.
_FREE = {
    "resume",
    "out",
    "threads",
    "workers",
    "tensorboard",
    "report_to",
    "gradient_checkpointing",
}


@dataclass(frozen=True)
class TrainReport(Report):
    """The report of a training or of a dry run.

    If several adapters were trained to keep one, ``candidates`` has the dev scores of all by
    name, and ``kept`` is the name of the kept one, which the other fields describe.
    """

    out: str
    command: str
    examples: dict[str, int]
    dev_examples: dict[str, int]
    truncated: int
    steps: int
    planned_steps: int
    trainable_parameters: int
    dev: dict[str, float]
    seconds: float
    log: str | None
    written: bool
    kept: str | None = None
    candidates: dict[str, dict[str, float]] = field(default_factory=dict)
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)  # by language, by reason
    held_parameters: int | None = None  # loaded parameters of the base model
    tokens: int | None = None  # dry run: the maximum number trained on
    memory_bytes: int | None = None  # dry run: the estimated peak
    notes: list[str] = field(default_factory=list)  # shown at the start
    on: list[dict[str, Any]] = field(default_factory=list)  # adapters of ``--on``
    layers: dict[str, Any] | None = None  # the chosen layer and pooling, with measurements
    preview: Sequence[Previewed] = ()  # dry run: the first examples
    data_notes: Sequence[str] = ()  # about prompts, shown with the result

    @property
    def notices(self) -> Sequence[str]:
        """Notes for the user about the data."""
        return self.data_notes

    def view(self) -> View:
        """Return the view of a finished training or of a dry run."""
        rows: list[Row] = [["examples", counted(self.examples)]]
        if self.on:
            rows.append(["on", " + ".join(stack_terms({"on": self.on}))])
        if self.truncated:
            prompts = number_of(self.truncated, "prompt")
            rows.append(["left out", f"{prompts} longer than --max-length"])
        rows += [
            [f"dropped {lang}", counted(reasons)]
            for lang, reasons in self.dropped.items()
            if reasons
        ]
        table = pairs([*rows, *(_done(self) if self.written else _planned(self))])
        return View([table, *preview_lines(self.preview)])

    def as_record(self) -> dict[str, Any]:
        """Return the report as a dictionary for JSON, without empty optional fields."""
        record = super().as_record()
        return {name: value for name, value in record.items() if value or name not in _OPTIONAL}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> "TrainReport":
        """Return the report stored in an adapter's record, which does not include the time."""
        known = {
            "seconds": 0.0,
            "notes": [],
            "data_notes": (),
            "preview": (),
            "on": [],
            "layers": None,
            **record,
        }
        return cls(**{each.name: known[each.name] for each in fields(cls)})


@dataclass(frozen=True)
class TrainingData:
    """The encoded training and dev rows, and the number of examples by language."""

    train: Sequence[Any]
    dev: Sequence[Any]
    examples: dict[str, int]
    dev_examples: dict[str, int]
    truncated: int = 0
    dropped: dict[str, dict[str, int]] = field(default_factory=dict)
    epoch_rows: int | None = None  # all training rows by default
    kinds: Sequence[Sequence[Any]] = ()  # training rows with equal shares of a step; default: all
    notes: Sequence[str] = ()  # about their prompts

    @property
    def rows_of_epoch(self) -> int:
        """Number of rows per epoch."""
        return len(self.train) if self.epoch_rows is None else self.epoch_rows

    @property
    def digest(self) -> str:
        """A hash of all rows, without their names, which depend on the current folder."""
        found = blake3()
        for row in chain(self.train, self.dev):
            found.update(repr(row).encode())
        return found.hexdigest()

    @property
    def mean_tokens(self) -> float:
        """Mean number of tokens of the rows of a step."""
        kinds = self.kinds or (self.train,)
        return sum(sum(map(token_count, rows)) / len(rows) for rows in kinds) / len(kinds)


def comparable(settings: TrainSettings) -> dict[str, Any]:
    """Return what must not change for a run to resume from its checkpoints.

    These are the settings, and the content of the adapters that it trains on. Paths are relative to
    the output, so the current folder does not matter.
    """
    values = settings.model_dump(mode="json", exclude={*_FREE, "on"})
    for name in values:
        location, value = settings.location(name), getattr(settings, name)
        if location is not None and value is not None:
            values[name] = _from_output(settings.out, location, value)
    stack = stack_record(settings.on)
    return values | {"on": [{"blake3": each["blake3"], "weight": each["weight"]} for each in stack]}


def _from_output(out: Path, location: Location, value: Any) -> Any:
    if isinstance(value, tuple):
        return [_from_output(out, location, item) for item in value]
    there = [path for path in paths_of(location, value) if path.exists()]
    if not there:  # a name, such as one on the Hub
        return str(value)
    parts = "" if Path(value).exists() else str(value).partition(":")[2]  # of a data set
    return [os.path.relpath(real_path(there[0]), real_path(out.parent)), parts]


def run_hash(settings: TrainSettings) -> str:
    """Return a hash of ``comparable``, by which a resumed run knows its finished adapter."""
    return blake3(json.dumps(comparable(settings), sort_keys=True).encode()).hexdigest()


def recorded(settings: TrainSettings) -> dict[str, Any]:
    """Return the settings that go into the record of an adapter.

    They do not depend on timing or on a kill in between: the same run gives the same file.
    """
    return settings.model_dump(mode="json", exclude=_FREE - {"out"})


def plan_training(settings: TrainSettings, data: TrainingData, footprint: Footprint) -> TrainReport:
    """Return the report of a dry run: the data, the number of steps, and the memory."""
    steps = planned_steps(settings, data.rows_of_epoch)
    return TrainReport(
        out=str(settings.out),
        command=settings.section,
        examples=data.examples,
        dev_examples=data.dev_examples,
        truncated=data.truncated,
        steps=0,
        planned_steps=steps,
        trainable_parameters=footprint.trained,
        dev={},
        seconds=0.0,
        log=None,
        written=False,
        dropped=data.dropped,
        data_notes=data.notes,
        held_parameters=footprint.held,
        tokens=round(steps * settings.batch_size * data.mean_tokens),
        memory_bytes=footprint.memory_bytes,
        on=stack_record(settings.on),
        notes=notes_on_training(settings),
    )
