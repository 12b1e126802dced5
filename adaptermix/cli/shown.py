"""Which function shows which result."""

from collections.abc import Callable
from typing import Any

from adaptermix.cli import console
from adaptermix.cli.show.adapters import show_inspection
from adaptermix.cli.show.evaluation import show_evaluation, show_plan, show_scores
from adaptermix.cli.show.machine import show_checkup, show_comet
from adaptermix.cli.show.merging import show_merge, show_search, show_search_plan
from adaptermix.cli.show.recipes import show_recipe, show_recipe_plan, show_report
from adaptermix.cli.show.retrieval import show_retrieval, show_retrieval_plan
from adaptermix.cli.show.training import show_training
from adaptermix.files.outputs import Report
from adaptermix.processes import is_main_process

SHOWN: dict[str, Callable[[Any], None]] = {
    "TrainReport": show_training,
    "MergeReport": show_merge,
    "SearchReport": show_search,
    "SearchPlan": show_search_plan,
    "EvalReport": show_evaluation,
    "EvalPlan": show_plan,
    "ScoreReport": show_scores,
    "InspectReport": show_inspection,
    "RetrievalReport": show_retrieval,
    "RetrievalPlan": show_retrieval_plan,
    "ReportSummary": show_report,
    "RecipeReport": show_recipe,
    "RecipePlan": show_recipe_plan,
    "Environment": show_comet,
    "InstallReport": show_comet,
    "DoctorReport": show_checkup,
}


def show(report: Report, *, as_json: bool) -> None:
    """Print a result, once where several processes work."""
    if not is_main_process():
        return
    if as_json:
        console.show_json(report.as_record())
    else:
        SHOWN[type(report).__name__](report)
