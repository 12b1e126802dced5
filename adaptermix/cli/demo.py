"""The demo: the regular commands on a corpus and a base model that come with the package."""

import shutil
from importlib.resources import as_file, files
from itertools import count
from pathlib import Path

from adaptermix.cli import console
from adaptermix.cli.progress import progress_bar
from adaptermix.commands.settings_file import CONFIG_NAME, load_settings
from adaptermix.evaluation.evaluate import evaluate
from adaptermix.evaluation.report import EvalReport
from adaptermix.files.outputs import Report, check_output, whole_output
from adaptermix.merging.merge import merge
from adaptermix.settings.evaluation import EvalSettings
from adaptermix.settings.merging import MergeSettings
from adaptermix.settings.training import TrainAlignSettings, TrainTaskSettings
from adaptermix.training.align import train_align
from adaptermix.training.task import train_task


def run(
    out: Path | None = None,
    *,
    seed: int = 1,
    force: bool = False,
    quiet: bool = False,
    show: bool = True,
) -> EvalReport:
    """Train, merge and evaluate in a new folder, with the settings in its ``adaptermix.toml``.

    Without ``out``, the folder is the first unused one of runs/demo, runs/demo-2 and so on.
    ``show`` prints the result of every step.

    Raises:
        ArtifactError: The folder exists and ``force`` is not set.
    """
    out = out or _free_folder(Path("runs/demo"))
    check_output(out, force)
    with whole_output(out) as partial, as_file(files("adaptermix") / "demo_data") as data:
        shutil.copytree(data, partial)
    config = out / CONFIG_NAME
    console.say(f"1/4  task adapter: slot filling in three languages (settings: {config})")
    task = load_settings(TrainTaskSettings, {"seed": seed}, config)
    with progress_bar(quiet) as on_progress:
        trained = train_task(task, on_progress=on_progress)
    _show(trained, show)
    console.say("2/4  alignment adapter: pulls low-resource languages toward English")
    align = load_settings(TrainAlignSettings, {"seed": seed}, config)
    with progress_bar(quiet) as on_progress:
        aligned = train_align(align, on_progress=on_progress)
    _show(aligned, show)
    console.say("3/4  merge: needs no base model and no training")
    merged = merge([task.out, align.out], load_settings(MergeSettings, {}, config))
    _show(merged, show)
    console.say("4/4  evaluation of all adapters on all languages")
    with progress_bar(quiet) as on_progress:
        report = evaluate(load_settings(EvalSettings, {}, config), on_progress=on_progress)
    _show(report, show)
    _say_what_next(out)
    return report


def _show(report: Report, wanted: bool) -> None:
    if wanted:
        console.show(report)


def _free_folder(path: Path) -> Path:
    names = (path if n == 1 else path.with_name(f"{path.name}-{n}") for n in count(1))
    return next(name for name in names if not name.exists())


def _say_what_next(out: Path) -> None:
    console.say(f"\nAll outputs are in {out}. Try this there:")
    for line in (
        f"cd {out}",
        "adaptermix merge task.safetensors align.safetensors --weight 0.7 -o other.safetensors",
        "adaptermix eval --task massive --langs en,cy,sw --adapter other.safetensors -o other",
        "adaptermix train-align --pairs cy-en,sw-en --temperature 1.0 -o align-1.0.safetensors",
    ):
        console.say(f"    {line}")
