"""What a training's record says, and what a resumed run is compared by."""

import warnings

import pytest

from adaptermix.settings.training import TrainAlignSettings, TrainJointSettings, TrainTaskSettings
from adaptermix.training.report import comparable

# Nothing else may change between a kill and --resume: these say where and how fast, not what.
FREE = {
    *("resume", "out", "threads", "workers", "tensorboard", "report_to"),
    "gradient_checkpointing",
}


@pytest.mark.parametrize("kind", [TrainTaskSettings, TrainAlignSettings, TrainJointSettings])
def test_a_run_resumes_only_with_the_settings_that_it_had(kind):
    settings = kind()
    names = kind.model_fields.keys() - {"on"}  # its content is compared
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the values are of no type of a setting
        changed = {
            name
            for name in names
            if comparable(settings.model_copy(update={name: "other"})) != comparable(settings)
        }
    assert names - changed == FREE & names
