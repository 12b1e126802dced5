"""The fast step against stock transformers and PEFT: whole model, padded, one pass."""

import copy
import os

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import distributed, multiprocessing, nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from adaptermix.errors import ConfigError, ResourceError
from adaptermix.settings.training import TrainAlignSettings
from adaptermix.training import contrastive as contrastive_step
from adaptermix.training.alignment import AlignmentObjective
from adaptermix.training.contrastive import ContrastiveStep, Loss, Sentences
from adaptermix.training.objectives import contrastive_loss

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
HEAD = {"head_dim": 6}  # not hidden_size / num_attention_heads
LAYOUTS = {
    "llama": LlamaConfig(**SHAPE, **HEAD),
    "mistral": MistralConfig(**SHAPE, **HEAD, sliding_window=3),
    "qwen2": Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=3, max_window_layers=1),
    "qwen3": Qwen3Config(**SHAPE, **HEAD),
    "gemma": GemmaConfig(**SHAPE, **HEAD),
    "gemma2": Gemma2Config(
        **SHAPE, **HEAD, sliding_window=3, attn_logit_softcapping=2.0, query_pre_attn_scalar=5
    ),
    "gemma3": Gemma3TextConfig(**SHAPE, **HEAD, sliding_window=3, query_pre_attn_scalar=5),
}
LORA = {
    "r": 3,
    "lora_alpha": 6,
    "target_modules": [
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    ],
}
LAYER = 3
LENGTHS = (9, 2, 5, 5, 1, 12, 4, 6, 3, 7)  # five sources, five targets


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def float64_throughout(monkeypatch):
    """transformers makes float32 of float64 in its norms, rotations and softmax; not here."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def whole_model(config, dropout=0.0):
    torch.manual_seed(0)
    config = copy.deepcopy(config)
    config._attn_implementation = "eager"
    model = AutoModelForCausalLM.from_config(config).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(1 if parameter.ndim == 1 else 0, 0.3)
    lora = LoraConfig(**LORA, lora_dropout=dropout)
    model = get_peft_model(model, lora, autocast_adapter_dtype=False)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.3)
    return model


def lower_model(config, dropout=0.0):
    """The same weights, without the upper blocks, the norm and the head."""
    whole = whole_model(config, dropout)
    model = whole.base_model.model.model
    model.layers = model.layers[:LAYER]
    model.config.num_hidden_layers = LAYER
    model.norm = nn.Identity()
    return model


def make_batch(lengths=LENGTHS):
    torch.manual_seed(1)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(3, 50, mask.shape) * mask
    keys = torch.arange(len(lengths) // 2)
    return {"input_ids": ids, "attention_mask": mask, "source_keys": keys, "target_keys": keys}


def loss_of(sources, targets):
    return contrastive_loss(sources, targets, 0.1)


def gradients(model):
    named = {n: p.grad for n, p in model.named_parameters() if p.requires_grad}
    return {name[name.index("layers.") :]: grad for name, grad in named.items()}


def plain_gradients(config, batch):
    """Both sides apart, a full forward with all hidden states, the formula with plain sums."""
    model = whole_model(config)
    sides = []
    for ids, mask in zip(
        batch["input_ids"].chunk(2), batch["attention_mask"].chunk(2), strict=True
    ):
        output = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        states = output.hidden_states[LAYER]
        pooled = [s[m.bool()].sum(0) / m.sum() for s, m in zip(states, mask, strict=True)]
        sides.append(torch.stack(pooled))
    lengths = [side.pow(2).sum(1).sqrt() for side in sides]
    logits = sides[0] @ sides[1].T / lengths[0][:, None] / lengths[1] / 0.1
    loss = (logits.exp().sum(1).log() - logits.diagonal()).mean()
    loss.backward()
    return loss.detach(), gradients(model)


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_gradients_equal_those_of_the_plain_whole_model(float64_throughout, layout, packing):
    batch = make_batch()
    loss, expected = plain_gradients(LAYOUTS[layout], batch)
    for rows in (len(LENGTHS), 3):  # one pass, and parts that do not divide the batch
        model = lower_model(LAYOUTS[layout])
        step = ContrastiveStep(model, rows, packing)
        found = step.backpropagate(model, Sentences.of(batch), Loss(loss_of), torch.Tensor.backward)
        torch.testing.assert_close(found, loss)
        grads = gradients(model)
        assert len(grads) == 2 * 7 * LAYER
        for name, grad in grads.items():
            assert grad.abs().sum() > 0
            torch.testing.assert_close(grad, expected[name], rtol=1e-8, atol=1e-10)


def run(
    rows, *, config=LAYOUTS["llama"], dropout=0.0, packing=True, seed=7, batch=None, of_tokens=None
):
    """Take one step; return its loss, the gradients and the step."""
    model = lower_model(config, dropout).train()
    step = ContrastiveStep(model, rows, packing)
    sentences = Sentences.of(batch or make_batch(), seed)
    loss = step.backpropagate(model, sentences, Loss(loss_of, of_tokens), torch.Tensor.backward)
    return loss, gradients(model), step


def assert_same(found, expected):
    torch.testing.assert_close(found[0], expected[0])
    for name, grad in expected[1].items():
        torch.testing.assert_close(found[1][name], grad, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("packing", [True, False], ids=["packed", "padded"])
@pytest.mark.parametrize("rows", [1, 3, 4, 9])
def test_parts_have_the_gradient_of_one_pass_dropout_included(float64_throughout, rows, packing):
    whole = run(len(LENGTHS), dropout=0.3)
    assert_same(run(rows, dropout=0.3, packing=packing), whole)
    other = run(len(LENGTHS), dropout=0.3, seed=8)
    assert not torch.allclose(other[0], whole[0], rtol=1e-3)


def test_parts_have_as_many_rows_and_nearly_as_many_tokens_short_ones_first():
    lengths = torch.randperm(256, generator=torch.Generator().manual_seed(0)) + 1
    sentences = Sentences.of(make_batch(lengths.tolist()))
    parts = sentences.parts(64)
    assert sorted(row for part in parts for row in part) == list(range(256))
    assert [len(part) for part in parts] == [64] * 4
    for part in parts:
        assert lengths[part].tolist() == sorted(lengths[part].tolist())
        assert lengths[part].sum() == lengths.sum() / 4
    assert sorted(map(len, sentences.parts(100))) == [85, 85, 86]


def test_memory_is_given_back_between_parts_and_only_there(monkeypatch):
    calls = []
    monkeypatch.setattr(contrastive_step, "give_back_memory", lambda: calls.append(1))
    run(len(LENGTHS))
    assert not calls
    run(3)
    assert len(calls) == 4 + 1 + 4  # before every part's graph, the loss, every part's pass back


def test_a_loss_of_tokens_is_added_part_by_part(float64_throughout):
    def squares(row, states):
        return (states * row.positions[:, None]).pow(2).sum() / 1000

    whole = run(len(LENGTHS), of_tokens=squares)
    assert_same(run(3, of_tokens=squares), whole)
    assert whole[0] > run(len(LENGTHS))[0]


def test_attention_dropout_is_the_same_in_both_passes(float64_throughout):
    """Its random numbers come from torch's stream, which is wound back for the second pass."""
    config = copy.deepcopy(LAYOUTS["llama"])
    config.attention_dropout = 0.5
    seen = []
    model = lower_model(config).train()
    step = ContrastiveStep(model, 4)
    encode = step.states
    torch.manual_seed(3)
    step.states = lambda *given: (made := encode(*given), seen.append(made[1].detach()))[0]
    step.backpropagate(model, Sentences.of(make_batch()), Loss(loss_of), torch.Tensor.backward)
    after = torch.rand(1)
    first, again = seen[:3], [seen[2], *seen[3:]][::-1]
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    torch.manual_seed(3)
    ContrastiveStep(model, 4).vectors(model, Sentences.of(make_batch()))
    assert torch.rand(1) == after  # the stream goes on as if there had been one pass


class LacksMemory(nn.Module):
    """Fails as a GPU does, where too many tokens come at once, and in one more call."""

    def __init__(self, model, most, unlucky=None):
        super().__init__()
        self.model, self.most, self.unlucky = model, most, unlucky
        self.calls = self.failures = 0

    def forward(self, **given):
        self.calls += 1
        if given["input_ids"].numel() > self.most or self.calls == self.unlucky:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return self.model(**given)


def test_lack_of_memory_halves_the_pass_and_keeps_the_gradient(float64_throughout):
    expected = run(len(LENGTHS), dropout=0.3)
    model = lower_model(LAYOUTS["llama"], 0.3).train()
    model = LacksMemory(model, most=30, unlucky=4)  # in the second pass, after a part's gradient
    step = ContrastiveStep(model, len(LENGTHS))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.ones_like(parameter)  # of the micro-batch before
    sentences = Sentences.of(make_batch(), 7)
    loss = step.backpropagate(model, sentences, Loss(loss_of), torch.Tensor.backward)
    found = {name: grad - 1 for name, grad in gradients(model).items()}
    assert_same((loss, found), expected)
    assert (model.failures, step.limit.rows) == (2, 2)


def test_a_sentence_that_does_not_fit_alone_is_an_error_with_a_hint():
    model = LacksMemory(lower_model(LAYOUTS["llama"]), most=5)
    with pytest.raises(
        ResourceError, match="not enough memory for a forward pass of 1 sentence"
    ) as raised:
        ContrastiveStep(model, 10).backpropagate(
            model, Sentences.of(make_batch()), Loss(loss_of), torch.Tensor.backward
        )
    assert "--micro-batch-size" in raised.value.hint


def test_other_errors_of_a_pass_are_not_taken_for_lack_of_memory():
    model = lower_model(LAYOUTS["llama"])
    batch = {**make_batch(), "input_ids": torch.full_like(make_batch()["input_ids"], 99)}
    with pytest.raises(IndexError):
        ContrastiveStep(model, 10).vectors(model, Sentences.of(batch))


HALVES = (9, 2, 5, 5, 12, 4, 6, 3)  # four pairs, of which each of two processes has two
SOURCES, TARGETS = (0, 1, 0, 2), (0, 1, 2, 1)  # texts that are the same are in both halves


def objective_of(changes, batch, *, together):
    """Return the loss of a batch as settings describe it."""
    settings = TrainAlignSettings(**changes)
    return AlignmentObjective(settings, None, None, batch, 7, together=together)


def one_of_two(rank, folder, changes):
    """Take the step of one process: every other contrastive batch of half the size."""
    torch.set_num_threads(1)
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank)}
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2
    )
    batch = make_batch(HALVES)
    rows = torch.tensor([0, 1, 4, 5]) + 2 * rank
    model = lower_model(LAYOUTS["llama"], 0.3).train()
    step = ContrastiveStep(model, 3)
    parallel = nn.parallel.DistributedDataParallel(model)
    own = {name: batch[name][rows] for name in ("input_ids", "attention_mask")}
    own["source_keys"] = torch.tensor(SOURCES)[rows[:2]]
    own["target_keys"] = torch.tensor(TARGETS)[rows[:2]]
    objective = objective_of(changes, own, together=True)
    loss = step.backpropagate(
        parallel,
        objective.sentences,
        Loss(objective),
        torch.Tensor.backward,
        no_sync=parallel.no_sync,
    )
    torch.save((loss, gradients(model)), f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    "changes",
    [{}, {"mask_duplicates": True, "directions": "both"}, {"pooling": "last", "pool_skip": 1}],
    ids=str,
)
def test_two_processes_have_the_gradient_of_one(tmp_path, changes):
    batch = make_batch(HALVES)
    batch |= {"source_keys": torch.tensor(SOURCES), "target_keys": torch.tensor(TARGETS)}
    objective = objective_of(changes, batch, together=False)
    model = lower_model(LAYOUTS["llama"], 0.3).train()
    loss = ContrastiveStep(model, 8).backpropagate(
        model, objective.sentences, Loss(objective), torch.Tensor.backward
    )
    expected = loss, gradients(model)
    multiprocessing.start_processes(one_of_two, (str(tmp_path), changes), 2, start_method="fork")
    for rank in range(2):
        found = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-6)
        for name, grad in expected[1].items():
            torch.testing.assert_close(found[1][name], grad, rtol=1e-3, atol=1e-5)


def test_packing_is_refused_for_attention_that_is_not_known():
    config = GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=9)
    with pytest.raises(ConfigError, match="--packing does not support the attention of GPT2Model"):
        ContrastiveStep(AutoModel.from_config(config), 4, packing=True)
    assert not ContrastiveStep(AutoModel.from_config(config), 4).packed
