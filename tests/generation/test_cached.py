"""Decoding with the real transformers engine, and the rules of the answer cache."""

import json
import shutil

import pytest
import torch
from helpers.adapters import peft_adapter
from helpers.evaluation import eval_settings
from helpers.generation import answers_of, make_engine
from helpers.models import make_tokenizer, save_model
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.writing import stage_adapter
from adaptermix.errors import ArtifactError, ResourceError
from adaptermix.generation.adapter_effect import IgnoredAdapterError, RefusedAdapterError
from adaptermix.generation.cached import CachedGenerator
from adaptermix.generation.engine import Generated, Limits, Request, compose_batches
from adaptermix.generation.prompts import PromptEncoder
from adaptermix.generation.transformers_engine import TransformersGenerator
from adaptermix.models.loading import LOADED, load_tokenizer

LIMITS = Limits(adapters=2, rank=8, prompt=40)
PROMPTS = [[0, *range(10 + n, 16 + 2 * n)] for n in range(7)]


@pytest.fixture
def make_cached(model_dir):
    def make(model=model_dir, **changes):
        changes = {"cache": True, **changes}
        settings = eval_settings(model, "unused", "unused", **changes)
        return CachedGenerator(
            settings, model, PromptEncoder(load_tokenizer(model, settings)), LIMITS
        )

    return make


@pytest.fixture
def staged(tmp_path, model_dir):
    """Stage an adapter of random factors by seed."""

    def stage(seed):
        peft_adapter(model_dir, tmp_path / "adapter", seed=seed)
        path = stage_adapter(read_adapter(tmp_path / "adapter"), tmp_path / "stage")
        shutil.rmtree(tmp_path / "adapter")
        return path

    return stage


@pytest.fixture
def no_engine(monkeypatch):
    def refuse(*args):
        raise AssertionError("an engine was started")

    return lambda: monkeypatch.setattr("adaptermix.generation.cached.make_generator", refuse)


def test_greedy_answers_are_the_arg_max_of_each_step(model_dir):
    model = AutoModelForCausalLM.from_pretrained(model_dir)
    ids = list(PROMPTS[3])
    for _ in range(8):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    engine = make_engine(model_dir)
    (answer,) = answers_of(engine, [Request(PROMPTS[3], None)])
    new = ids[len(PROMPTS[3]) :]
    end = new.index(1) if 1 in new else None
    assert answer.text == engine.tokenizer.decode(new[:end], skip_special_tokens=True)
    assert answer.is_truncated == (end is None)
    assert answer.tokens == (8 if end is None else end + 1)


def test_an_answer_stops_at_the_end_of_turn_and_is_not_cut(model_dir):
    engine = make_engine(model_dir, stop_ids=range(400))
    (answer,) = answers_of(engine, [Request([0, 20], None)])
    assert (answer.text, answer.is_truncated, answer.tokens) == ("", False, 1)


@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from("ab"), st.sampled_from("xy"))),
    st.integers(1, 4),
    st.data(),
)
def test_batches_stay_as_they_were_when_others_are_left_out(shapes, size, data):
    requests = [Request([0] * length, adapter, group) for length, adapter, group in shapes]
    batches = compose_batches(requests, size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(requests)))
    for batch in batches:
        assert len({(requests[index].adapter, requests[index].group) for index in batch}) == 1
        assert 1 <= len(batch) <= size
    kept = [batch for batch in batches if data.draw(st.booleans())]
    left = sorted(index for batch in kept for index in batch)
    again = compose_batches([requests[index] for index in left], size)
    assert sorted([left[index] for index in batch] for batch in again) == sorted(kept)


@pytest.mark.slow
def test_adapters_come_and_go_without_reloading_the_base(model_dir, staged, monkeypatch):
    """More adapters than the engine holds, in two rounds: each answers as if it were alone."""
    adapters = [staged(seed) for seed in range(LOADED + 2)]
    requests = [Request(PROMPTS[0], adapter) for adapter in (None, *adapters)]
    alone = [answers_of(make_engine(model_dir), [request])[0] for request in requests]
    assert len(set(alone)) > LOADED  # they differ, or this would mean nothing
    engine = make_engine(model_dir)
    monkeypatch.setattr("adaptermix.generation.transformers_engine.load_model", None)
    assert answers_of(engine, requests) == alone
    assert answers_of(engine, requests[::-1]) == alone[::-1]
    assert answers_of(engine, requests) == alone  # adapters once more, after the base
    assert len(engine.adapted.loaded) == LOADED
    assert sorted(engine.adapted.model.peft_config) == sorted(engine.adapted.loaded)


def test_out_of_memory_halves_the_batch(model_dir, monkeypatch):
    requests = [Request(prompt, None) for prompt in PROMPTS]
    expected = answers_of(make_engine(model_dir, batch_size=7), requests)
    engine = make_engine(model_dir, batch_size=7)
    decode, sizes = engine._decode, []

    def decode_two_at_most(prompts):
        sizes.append(len(prompts))
        if len(prompts) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return decode(prompts)

    monkeypatch.setattr(engine, "_decode", decode_two_at_most)
    groups = []
    engine.generate(requests, groups.append)
    assert sizes == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    (answers,) = groups  # still one group: it is kept whole or not at all
    assert [answers[index] for index in range(7)] == expected


def test_out_of_memory_on_one_prompt_is_an_error(model_dir, monkeypatch):
    engine = make_engine(model_dir)

    def decode(prompts):
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried")

    monkeypatch.setattr(engine, "_decode", decode)
    with pytest.raises(ResourceError, match="not enough memory to answer one prompt"):
        engine.generate([Request(PROMPTS[0], None)], lambda answers: None)


def test_a_second_run_decodes_nothing_and_starts_no_engine(make_cached, staged, no_engine):
    adapter = staged(1)
    requests = [Request(prompt, system) for system in (None, adapter) for prompt in PROMPTS]
    first = make_cached()
    answers = first.decode(requests)
    assert (first.decoded, first.reused) == (14, 0)
    no_engine()
    second = make_cached()
    assert second.decode(requests) == answers
    assert (second.decoded, second.reused) == (0, 14)
    assert second.decode(requests[::2]) == answers[::2]  # from memory now
    assert (second.decoded, second.reused) == (0, 21)


def test_without_cache_nothing_is_written_or_read(make_cached, answer_cache):
    requests = [Request(prompt, None) for prompt in PROMPTS]
    for _ in range(2):
        generator = make_cached(cache=False)
        generator.decode(requests)
        assert generator.decoded == 7
    assert not answer_cache.exists()


@pytest.mark.parametrize(
    "changes", [{"max_new_tokens": 7}, {"dtype": "bfloat16"}, {"model": "bfloat16 weights"}]
)
def test_another_setting_or_model_is_never_served_old_answers(make_cached, tmp_path, changes):
    requests = [Request(prompt, None) for prompt in PROMPTS]
    make_cached().decode(requests)
    if "model" in changes:
        changes = {"model": save_model(tmp_path / "other", dtype=torch.bfloat16)}
    other = make_cached(**changes)
    other.decode(requests)
    assert (other.decoded, other.reused) == (7, 0)


def test_a_changed_adapter_at_the_same_path_is_decoded_anew(make_cached, model_dir, tmp_path):
    path = tmp_path / "adapter"
    peft_adapter(model_dir, path, seed=1)

    def decode():
        adapter = stage_adapter(read_adapter(path), tmp_path / "stage")
        generator = make_cached()
        return generator.decode([Request(prompt, adapter) for prompt in PROMPTS]), generator.decoded

    before, _ = decode()
    weights = path / "adapter_model.safetensors"
    save_file({k: v.flip(0) for k, v in load_file(weights).items()}, weights, {"format": "pt"})
    after, decoded = decode()
    assert decoded == 7
    assert after != before
    config = json.loads((path / "adapter_config.json").read_text())
    (path / "adapter_config.json").write_text(json.dumps(config | {"lora_alpha": 80}))
    _, decoded = decode()
    assert decoded == 7, "an update is its factors times alpha / rank"


def test_whatever_an_answer_depends_on_is_in_its_key(make_cached, model_dir, tmp_path, monkeypatch):
    """Ends of answers from the generation config, the engine's version, vLLM's arguments."""
    model = shutil.copytree(model_dir, tmp_path / "model")
    generation = json.loads((model / "generation_config.json").read_text())
    first = make_cached(model)
    (model / "generation_config.json").write_text(json.dumps(generation | {"eos_token_id": [1, 7]}))
    other = make_cached(model)
    assert 7 in other.stop_ids and 7 not in first.stop_ids
    contexts = [first.context, other.context]
    contexts += [make_cached(model, max_new_tokens=n).context for n in (3, 4)]
    monkeypatch.setattr("adaptermix.generation.cached.installed_version", lambda engine: "0.0")
    contexts.append(make_cached(model).context)
    monkeypatch.setattr("adaptermix.generation.cached.choose_engine", lambda settings: "vllm")
    contexts += [make_cached(model, engine_args={"quantization": q}).context for q in ("a", "b")]
    assert len(set(contexts)) == len(contexts)
    assert make_cached(model, engine_args={"quantization": "a"}).context == contexts[-2]


def test_answers_depend_on_the_tokenizer_that_decodes_them(make_cached, tmp_path):
    """On the IDs of its tokens, on what texts leave out, and on how they are put together."""

    def swap(content):
        tokens = content["model"]["vocab"]
        tokens["e"], tokens["g"] = tokens["g"], tokens["e"]

    changes = {
        "none": lambda content: None,
        "ids": swap,
        "special": lambda content: content["added_tokens"][-1].update(special=False),
        "decoder": lambda content: content.update(decoder={"type": "Fuse"}),
    }
    contexts = {}
    for name, change in changes.items():
        folder = tmp_path / name
        make_tokenizer().save_pretrained(folder)
        content = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        change(content)
        (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
        contexts[name] = make_cached(tokenizer=str(folder)).context
    assert contexts["none"] == make_cached().context
    assert len(set(contexts.values())) == len(contexts)


def test_prompts_of_the_same_tokens_in_another_order_are_decoded_apart(make_cached):
    generator = make_cached()
    generator.decode([Request([0, 20, 30], None), Request([0, 30, 20], None)])
    assert generator.decoded == 2


def test_equal_prompts_are_decoded_once(make_cached):
    requests = [Request(PROMPTS[0], None, "en"), Request(PROMPTS[0], None, "de")]
    generator = make_cached()
    one, other = generator.decode(requests)
    assert one == other
    assert (generator.decoded, generator.reused) == (1, 0)
    assert generator.decode(requests) == [one, other]
    assert (generator.decoded, generator.reused) == (1, 1)


def test_a_batch_is_skipped_only_whole_and_an_answer_never_changes(make_cached, monkeypatch):
    class Fickle:
        """Never says the same again."""

        said = 0

        def generate(self, requests, on_answers):
            Fickle.said += 1
            on_answers({at: Generated(str(Fickle.said), False) for at in range(len(requests))})

    monkeypatch.setattr("adaptermix.generation.cached.make_generator", lambda *args: Fickle())
    requests = [Request(prompt, None) for prompt in PROMPTS]  # longest is last: 6 5 4 | 3 2 1 | 0
    make_cached(batch_size=3).decode([requests[6], requests[1]])
    generator = make_cached(batch_size=3)
    answers = generator.decode(requests[1:])
    assert (generator.decoded, generator.reused) == (6, 0)
    assert [answer.text for answer in answers] == ["1", "2", "2", "2", "2", "1"]
    other = make_cached(batch_size=3)
    assert other.decode(requests)[1:] == answers
    assert (other.decoded, other.reused) == (1, 6)


class Says:
    """Answers one prompt after another, of a known number of tokens."""

    def __init__(self, tokens):
        self.tokens = tokens

    def generate(self, requests, on_answers):
        for at, count in zip(range(len(requests)), self.tokens, strict=True):
            on_answers({at: Generated("said", False, count)})


def test_progress_counts_the_prompts_and_tokens_of_this_call(make_cached, monkeypatch):
    """Answers that are known already are not among them."""
    clock = iter([0.0, 2.0, 4.0, 8.0])
    monkeypatch.setattr("adaptermix.generation.cached.time.monotonic", lambda: next(clock))
    monkeypatch.setattr("adaptermix.generation.cached.make_generator", lambda *_: Says([10, 50, 4]))
    generator = make_cached(batch_size=1)
    generator._known[generator._key(Request(PROMPTS[0], None))] = Generated("known", False, 900)
    seen = []
    generator.decode([Request(prompt, None) for prompt in PROMPTS[:4]], seen.append)
    decoding = [(p.done, p.total, p.detail) for p in seen if p.stage == "decoding"]
    assert decoding == [
        (0, 3, ""),
        (1, 3, "5 tokens/s"),
        (2, 3, "15 tokens/s"),
        (3, 3, "8 tokens/s"),
    ]
    assert (generator.decoded, generator.reused) == (3, 1)


@pytest.mark.parametrize("is_named", [True, False])
@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        (IgnoredAdapterError, "the adapter has no effect"),
        (RefusedAdapterError, "transformers .* cannot load the adapter"),
    ],
)
def test_an_adapter_that_is_not_applied_has_the_name_that_the_command_gave_it(
    make_cached, monkeypatch, tmp_path, is_named, kind, complaint
):
    class Complains:
        def generate(self, requests, on_answers):
            raise kind(requests[0].adapter, "layers.0.q_proj")

    monkeypatch.setattr("adaptermix.generation.cached.make_generator", lambda *_: Complains())
    generator, path = make_cached(), tmp_path / "c0ffee"
    if is_named:
        generator.names[path] = "merged"
    shown = "merged" if is_named else path
    with pytest.raises(ArtifactError, match=f"^{shown}: {complaint}") as caught:
        generator.decode([Request(PROMPTS[0], path)])
    assert "layers.0.q_proj" in caught.value.message
    assert "transformers" in caught.value.hint


def test_trouble_with_the_cache_and_idle_options_are_noted(make_cached, answer_cache):
    answer_cache.parent.mkdir(parents=True, exist_ok=True)
    answer_cache.write_text("in the way of a folder")
    generator = make_cached()
    assert generator.notes == []
    generator.decode([Request(PROMPTS[0], None)])
    assert any("cannot be used" in note for note in generator.notes)
    assert make_cached(cache=False).notes == []
    (note,) = make_cached(cache=False, server_model="m").notes
    assert note == "--server-model has no effect with the transformers engine"


def test_a_stopped_run_goes_on_with_the_same_batches(make_cached, monkeypatch):
    """Stop after every number of batches; the batches decoded in all are those of one run."""
    requests = [Request(prompt, None, "en" if n % 2 else "cy") for n, prompt in enumerate(PROMPTS)]

    def decode(stop_after):
        batches = []
        original = TransformersGenerator._decode

        def counted(self, prompts):
            if len(batches) == stop_after:
                raise KeyboardInterrupt
            batches.append(prompts)
            return original(self, prompts)

        with monkeypatch.context() as patch:
            patch.setattr(TransformersGenerator, "_decode", counted)
            generator = make_cached(batch_size=2)
            try:
                return batches, generator.decode(requests)
            except KeyboardInterrupt:
                return batches, None

    whole = [[requests[i].prompt_ids for i in b] for b in compose_batches(requests, 2)]
    seen = []
    for stop_after in (1, 2, None):
        batches, answers = decode(stop_after)
        seen += batches
    assert seen == whole
    assert answers == make_cached(cache=False, batch_size=2).decode(requests)
