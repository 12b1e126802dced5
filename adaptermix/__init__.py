"""Train, merge and evaluate LoRA adapters that carry a task across languages.

The commands of the tool are functions of the same names in these modules:

    adaptermix.task_training  ``train_task``
    adaptermix.align_training ``train_align``
    adaptermix.merging      ``merge``
    adaptermix.evaluation   ``evaluate``

They are not imported here, so that ``import adaptermix`` stays light.
"""

from importlib.metadata import version

__version__ = version("adaptermix")
