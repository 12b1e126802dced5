"""Merge weights learned by gradient descent: one per adapter and layer (or module).

As in LoRA Soups (Prabhakar et al. 2024), the merged update of a layer is sum_i w_i s_i B_i A_i
with layer-wise weights. The factors are frozen, and only the weights are trained, on the task's
loss. They start at the best scalar merge, and a penalty pulls them back to it, because there are
many weights and few dev examples.
"""

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerCallback

from adaptermix.adapters.adapter import Adapter
from adaptermix.adapters.format import decoder_layer_of, layer_then_name
from adaptermix.errors import ArtifactError
from adaptermix.merging.plan import MergePlan
from adaptermix.merging.weights import Rule, Weighting
from adaptermix.models.lora import as_torch
from adaptermix.progress import OnProgress, Progress
from adaptermix.settings.merging import SearchSettings
from adaptermix.training.batches import AnswerCollator, EncodedExample
from adaptermix.training.run import common_arguments

BATCH = 16  # examples in one gradient step


@dataclass(frozen=True)
class Learned:
    """Learned weights, and the scalar weights they started from.

    Attributes:
        weighting: The learned weights.
        start: The scalar weights they started from.
        start_loss: Mean loss of the scalar weights on the learning examples.
        loss: Mean loss of the learned weights on the same examples.
    """

    weighting: Weighting
    start: Weighting
    start_loss: float
    loss: float


def learn_weights(
    merged: "WeightedMerge",
    starts: Sequence[Weighting],
    examples: Sequence[EncodedExample],
    collator: AnswerCollator,
    on_progress: OnProgress,
) -> Learned:
    """Learn weights, starting from the scalar merge with the lowest loss.

    Args:
        merged: The base model with the adapters, whose weights are learned in place.
        starts: Scalar weightings to choose the start from.
        examples: Encoded dev examples to learn on. Do not use them to evaluate the result.
        collator: Pads batches of the examples.
        on_progress: Called after every step.
    """
    set_seed(merged.settings.seed)
    losses = [merged.at(start).mean_loss(examples, collator) for start in starts]
    best = min(range(len(starts)), key=losses.__getitem__)
    merged.at(starts[best])
    with tempfile.TemporaryDirectory(prefix="adaptermix-") as work:
        trainer = Trainer(
            model=merged,
            args=_arguments(merged.settings, work),
            train_dataset=list(examples),  # type: ignore[arg-type]
            data_collator=collator,
            callbacks=[_Steps(on_progress)],
        )
        for talker in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(talker)
        trainer.train()
    loss = merged.mean_loss(examples, collator)
    return Learned(merged.weighting(), starts[best], losses[best], loss)


class WeightedMerge(nn.Module):
    """A frozen model whose linear layers add a weighted sum of several LoRA updates.

    Attributes:
        weights: One row per group of modules, one column per adapter. Only these are trained.
        start: The weights that the penalty pulls back to.
        settings: Steps, learning rate, penalty, and whether layers or modules get weights.
        names: Names of the modules that rules refer to, if they are others than in the model.
    """

    start: Tensor

    def __init__(self, model: PreTrainedModel, plan: MergePlan, settings: SearchSettings) -> None:
        """Register the updates as forward hooks of the model.

        Raises:
            ArtifactError: A module is not a linear layer of the model.
        """
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.settings = settings
        self.groups = _groups(plan, settings.learn_per)
        self.names = plan.names
        device = next(model.parameters()).device
        self.weights = nn.Parameter(
            torch.zeros(len(self.groups), len(plan.adapters), device=device)
        )
        self.register_buffer("start", torch.zeros_like(self.weights.data))
        linear = {
            name: layer for name, layer in model.named_modules() if isinstance(layer, nn.Linear)
        }
        for row, modules in enumerate(self.groups.values()):
            for module in modules:
                if module not in linear:
                    raise ArtifactError(f"--search learn: '{module}' is not a linear layer")
                self._hook(linear[module], row, module, plan.adapters)

    def _hook(self, layer: nn.Linear, row: int, module: str, adapters: Sequence[Adapter]) -> None:
        factors = []
        for column, adapter in enumerate(adapters):
            if module in adapter.factors:
                update = adapter.update(module)
                b = update.scaling * as_torch(update.b)
                a, b = (factor.to(layer.weight) for factor in (as_torch(update.a), b))
                factors.append((column, a, b))

        weights = self.weights  # a hook with self would keep the model in memory: a cycle

        def add(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            for column, a, b in factors:
                weight = weights[row, column].to(output.dtype)
                output = output + weight * ((inputs[0] @ a.mT) @ b.mT)
            return output

        layer.register_forward_hook(add)

    def at(self, weighting: Weighting) -> "WeightedMerge":
        """Set the weights, and the start that they are pulled to, to a weighting."""
        rows = [weighting.of(modules[0]) for modules in self.groups.values()]
        values = torch.tensor(rows, device=self.weights.device)
        self.weights.data.copy_(values)
        self.start.copy_(values)
        return self

    def train(self, mode: bool = True) -> "WeightedMerge":
        """Stay in evaluation mode, also in the Trainer: dropout of a frozen model is only noise."""
        return super().train(False)

    def forward(self, **batch: Tensor) -> dict[str, Tensor]:
        """Return the task's loss plus the penalty."""
        drift = (self.weights - self.start).square().mean()
        return {"loss": self.model(**batch).loss + self.settings.learn_penalty * drift}

    def mean_loss(self, examples: Sequence[EncodedExample], collator: AnswerCollator) -> float:
        """Return the task's mean loss over batches, without the penalty."""
        losses = []
        with torch.inference_mode():
            for at in range(0, len(examples), BATCH):
                batch = collator(examples[at : at + BATCH])
                batch = {name: rows.to(self.weights.device) for name, rows in batch.items()}
                losses.append(float(self.model(**batch).loss))
        return sum(losses) / len(losses)

    def weighting(self) -> Weighting:
        """Return the current weights as the rules of a weights file."""
        rows = [tuple(round(w, 4) for w in row) for row in self.weights.detach().tolist()]
        mean = tuple(round(w, 4) for w in self.weights.detach().mean(dim=0).tolist())
        rules = []
        for weights, (name, modules) in zip(rows, self.groups.items(), strict=True):
            layer = decoder_layer_of(modules[0])
            if isinstance(name, int) and layer is not None:
                rules.append(Rule(weights, layers=frozenset({layer})))
            else:
                module = self.names.get(modules[0], modules[0])
                rules.append(Rule(weights, modules=f"^{re.escape(module)}$"))
        return Weighting(mean, tuple(rules))


def _groups(plan: MergePlan, per: str) -> dict[int | str, list[str]]:
    """Group the modules that share weights: by decoder block, or each module by itself."""
    groups: dict[int | str, list[str]] = {}
    for module in sorted(plan.specs, key=layer_then_name):
        layer = decoder_layer_of(module)
        groups.setdefault(layer if per == "layer" and layer is not None else module, []).append(
            module
        )
    return groups


def _arguments(settings: SearchSettings, work: str) -> TrainingArguments:
    return TrainingArguments(
        output_dir=work,
        per_device_train_batch_size=BATCH,
        max_steps=settings.learn_steps,
        learning_rate=settings.learn_lr,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        save_strategy="no",
        **common_arguments(settings),
    )


class _Steps(TrainerCallback):
    """Reports every step."""

    def __init__(self, on_progress: OnProgress) -> None:
        self.on_progress = on_progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report the progress."""
        self.on_progress(Progress("learning weights", state.global_step, state.max_steps))
