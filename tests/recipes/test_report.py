"""The tables of a recipe's plan and run: each number is the step's own."""

from adaptermix.recipes.report import RecipePlan, RecipeReport, StepPlan, StepReport

COST = {
    "examples": {"en": 1200, "cy": 34},
    "planned_steps": 56,
    "candidates": ["a", "b", "c"],
    "answers": 3702,
    "rank": 8,
    "modules": 224,
    "flops": 5e15,
    "hours": 2.5,
}
SIZES = {
    "1,234 examples in 2 languages": ("examples",),
    "at most 56 steps": ("planned_steps",),
    "3 candidates": ("candidates",),
    "at most 3,702 answers": ("answers",),
    "rank 8 in 224 modules": ("rank", "modules"),
    "5 PFLOP, 2.5 h on an A100": ("flops", "hours"),
}


def sizes(cost, problem=None):
    step = StepPlan("a", "eval", "to do", [], cost, "o/a", problem)
    return RecipePlan("r.toml", "o", [step]).view().shown[0].rows[0][4]


def test_a_size_has_all_that_is_known_and_nothing_else():
    assert sizes(COST) == ", ".join(SIZES)
    for words, keys in SIZES.items():
        assert sizes({key: COST[key] for key in keys}) == words
    assert sizes({}) == ""
    assert sizes({"examples": {"cy": 1}}) == "1 example in cy"
    assert sizes({}, "no data") == "cannot run; see below"


def test_a_run_shows_the_time_of_the_steps_that_it_ran():
    steps = [
        StepReport("a", "train-task", "done", 3661.4, "o/a.safetensors", {}),
        StepReport("b", "eval", "done before", 12.0, "o/b", {}),
    ]
    (table,) = RecipeReport("r.toml", "o", steps).view().shown
    assert table.rows == [
        ["a", "train-task", "done", "3,661 s", "o/a.safetensors"],
        ["b", "eval", "done before", "", "o/b"],
    ]
    assert len(table.columns) == 5
