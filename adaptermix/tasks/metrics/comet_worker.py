"""The counterpart of ``comet.py``: a script for COMET's interpreter that adaptermix never imports.

    python comet_worker.py JOB ANSWER

JOB is JSON: ``systems``, a list of lists of {src, mt, ref}, and either ``checkpoint``, a path, or
``repository``, a Hub name. ANSWER becomes JSON: ``stage``, the step that started last; at the end
``scores``, one list per system, and ``versions``; after an exception ``error``.
"""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from types import TracebackType


def score(job_path: Path, answer_path: Path) -> None:
    """Score the job's systems. The state so far is on disk before each step."""
    answer: dict[str, object] = {}

    def note(**known: object) -> None:
        answer.update(known)
        partial = answer_path.with_suffix(".partial")
        partial.write_text(json.dumps(answer), encoding="utf-8")
        partial.replace(answer_path)

    def note_error(
        kind: type[BaseException], error: BaseException, trace: TracebackType | None
    ) -> None:
        first = (str(error).strip().splitlines() or [""])[0]
        note(error=f"{kind.__name__}: {first}", is_lacking=issubclass(kind, OSError))
        sys.__excepthook__(kind, error, trace)

    sys.excepthook = note_error
    job = json.loads(job_path.read_text(encoding="utf-8"))
    note(stage="import")
    import torch
    from comet import load_from_checkpoint
    from huggingface_hub import snapshot_download

    note(stage="fetch")
    # Not comet.download_model, which hides why a download fails.
    checkpoint = job.get("checkpoint") or Path(
        snapshot_download(
            job["repository"], allow_patterns=["hparams.yaml", "checkpoints/model.ckpt"]
        ),
        "checkpoints",
        "model.ckpt",
    )
    note(stage="load")
    model = load_from_checkpoint(str(checkpoint))  # loads a pickle, which only this process does
    note(stage="score")
    gpus = int(torch.cuda.is_available())  # at most one: with more, COMET ends the process
    scores = [
        model.predict(samples, gpus=gpus, progress_bar=False).scores for samples in job["systems"]
    ]
    names = ("unbabel-comet", "torch", "transformers")
    note(scores=scores, versions={name: version(name) for name in names})


if __name__ == "__main__":
    score(Path(sys.argv[1]), Path(sys.argv[2]))
