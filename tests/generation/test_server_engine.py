"""One queue for several servers: retries, losses, adapters, and the cache."""

import re
from types import SimpleNamespace

import pytest
from helpers.adapters import peft_adapter
from helpers.completions import answer_ids, completions_server
from helpers.evaluation import eval_settings
from helpers.generation import answers_of
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from adaptermix.adapters.adapter import read_adapter
from adaptermix.adapters.writing import stage_adapter
from adaptermix.errors import ArtifactError, ConfigError, ResourceError
from adaptermix.evaluation.evaluate import plan
from adaptermix.generation import server_client, server_http
from adaptermix.generation.adapter_effect import IgnoredAdapterError
from adaptermix.generation.cached import CachedGenerator
from adaptermix.generation.engine import Limits, Request, read_answer
from adaptermix.generation.prompts import PromptEncoder
from adaptermix.generation.server_client import look_at_servers
from adaptermix.generation.server_engine import ServerGenerator
from adaptermix.models.loading import load_tokenizer

LIMITS = Limits(adapters=2, rank=8, prompt=40)
PROMPTS = [[0, *range(10 + n, 14 + n % 7 + n)] for n in range(40)]
BASE = [Request(ids, None) for ids in PROMPTS]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    for name in server_http.KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(server_client, "PAUSE", 0.01)
    monkeypatch.setattr(server_client, "TRIES", 3)


@pytest.fixture(scope="module")
def staged(tmp_path_factory, model_dir):
    """Three adapters as engines get them."""
    folder = tmp_path_factory.mktemp("adapters")
    for seed in range(3):
        peft_adapter(model_dir, folder / f"{seed}", seed=seed)
    return [stage_adapter(read_adapter(folder / f"{seed}"), folder / "staged") for seed in range(3)]


def server_settings(model_dir, sites, **changes):
    given = {
        "engine": "auto",
        "server": tuple(site.url for site in sites),
        "server_model": "base",
        **changes,
    }
    return eval_settings(model_dir, "unused", "unused", **given)


@pytest.fixture
def connect(model_dir):
    """Make an engine of servers; all are closed at the end."""
    made = []

    def make(*sites, limits=LIMITS, **changes):
        settings = server_settings(model_dir, sites, **{"server_requests": 4, **changes})
        served = look_at_servers(settings, has_adapters=False)
        tokenizer = load_tokenizer(model_dir, settings)
        made.append(ServerGenerator(settings, tokenizer, [1], limits, served))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def make_cached(model_dir):
    def make(*sites, **changes):
        settings = server_settings(model_dir, sites, **{"cache": True, **changes})
        encoder = PromptEncoder(load_tokenizer(model_dir, settings))
        served = look_at_servers(settings, has_adapters=False)
        return CachedGenerator(settings, model_dir, encoder, LIMITS, served)

    return make


def decode(generator, requests=BASE):
    """Answer, and leave the servers as a command does."""
    with generator.staging():
        return generator.decode(requests)


def expected(engine, requests):
    def ids(request):
        model = "base" if request.adapter is None else engine._name(request.adapter)
        return answer_ids(model, request.prompt_ids)[: engine.settings.max_new_tokens]

    return [read_answer(ids(request), [1], engine.tokenizer) for request in requests]


def test_two_servers_share_a_queue_and_nothing_is_decoded_twice(connect):
    with completions_server() as one, completions_server() as other:
        engine = connect(one, other)
        assert answers_of(engine, BASE) == expected(engine, BASE)
        assert one.answered and other.answered
        total = one.answered + other.answered
        assert set(total.values()) == {1}
        assert len(total) == len(PROMPTS)


def test_prompts_go_as_token_ids_and_decoding_is_greedy_whatever_the_servers_defaults(connect):
    with completions_server() as site:
        answers_of(connect(site), BASE[:1])
    (body,) = site.bodies
    assert body["prompt"] == PROMPTS[0]
    assert body["stop_token_ids"] == [1]
    assert body["max_tokens"] == 8
    assert (body["temperature"], body["top_p"], body["top_k"]) == (0.0, 1.0, 0)
    assert (body["repetition_penalty"], body["min_p"]) == (1.0, 0.0)


def test_another_software_answers_in_text(connect):
    with completions_server(software="llama") as site:
        engine = connect(site)
        first, *_ = answers_of(engine, BASE)
    assert first.text == f"text {answer_ids('base', PROMPTS[0])}"
    assert not first.is_truncated
    assert first.tokens == len(answer_ids("base", PROMPTS[0]))
    with completions_server(software="llama") as site:
        (cut,) = answers_of(connect(site, max_new_tokens=1), BASE[:1])
    assert (cut.is_truncated, cut.tokens) == (True, 1)
    (body, *_) = site.bodies
    assert (body["stop"], body["stop_token_ids"]) == (["<|end|>"], [1])
    assert body["repetition_penalty"] == 1.0
    assert "top_k" not in body


def test_llama_cpp_answers_without_its_penalties_and_the_adapters_it_was_started_with(connect):
    pages = {"/lora-adapters": (200, {}, '[{"id": 3, "path": "a.gguf", "scale": 1.0}]')}
    with completions_server(software="llamacpp", pages=pages) as site:
        answers_of(connect(site), BASE[:1])
        site.pages.clear()
        answers_of(connect(site), BASE[:1])
    started, plain = site.bodies
    assert (started["lora"], plain["lora"]) == ([{"id": 3, "scale": 0.0}], [])
    assert started["samplers"] == ["temperature"]


def test_adapters_are_loaded_before_prompts_named_by_content_and_unloaded(connect, staged):
    requests = [Request(ids, system) for system in (None, *staged[:2]) for ids in PROMPTS[:5]]
    with completions_server() as site:
        engine = connect(site)
        answers = answers_of(engine, requests)
        assert answers == expected(engine, requests)
        asked = {"base", *map(engine._name, staged[:2])}
        assert {model for model, _ in site.answered} == asked
        loads = [event for event in site.events if event.startswith("load")]
        assert site.events[:3] == loads
        assert "zeros" in loads[0]
        for path, load in zip(staged, loads[1:], strict=False):
            assert path.name in load
            assert site.adapters[load.removeprefix("load ")] == str(path)
        engine.close()
        assert site.adapters == {}


def test_adapters_come_and_go_where_there_is_no_room_for_all(connect, staged):
    requests = [Request(PROMPTS[0], system) for system in (*staged, None)]
    with completions_server() as site:
        engine = connect(site)
        assert answers_of(engine, requests) == expected(engine, requests)
        assert len(site.adapters) == LIMITS.adapters + 1  # and zeros
        assert answers_of(engine, requests[:1]) == expected(engine, requests[:1])
        assert engine._name(staged[0]) in site.adapters


def test_an_adapter_whose_load_was_answered_but_not_heard_is_loaded(connect):
    """The second request is refused, because the first has loaded it."""
    with completions_server() as site:
        engine = connect(site)
        (lane,) = engine._lanes
        for _ in range(2):
            engine._do(lane.server.load("adaptermix-a", "/there/a"))
        assert site.adapters == {"adaptermix-a": "/there/a"}


def test_an_answer_and_a_load_are_waited_for_as_long_as_asked(connect, staged, monkeypatch):
    waits = {}
    ask = server_http.Connection.ask

    async def watched(self, method, path, body=None, *seconds):
        waits[path] = seconds
        return await ask(self, method, path, body, *seconds)

    monkeypatch.setattr(server_http.Connection, "ask", watched)
    with completions_server() as site:
        answers_of(connect(site, server_timeout=123.0), [Request(PROMPTS[0], staged[0])])
    assert waits["/completions"] == waits["/load_lora_adapter"] == (123.0,)
    assert waits["/models"] == ()


def test_the_first_stop_texts_are_sent_where_there_are_too_many(connect):
    with completions_server(software="llama") as site:
        engine = connect(site)
        engine.stop_ids = [1, 3, 4, 5, 0, 2]
        answers_of(engine, BASE[:1])
    (body,) = site.bodies
    assert body["stop"] == ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]


def test_stop_texts_keep_their_spaces():
    backend = Tokenizer(WordLevel({" .": 0}))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, clean_up_tokenization_spaces=True)
    asked = SimpleNamespace(stop_ids=[0], tokenizer=tokenizer)
    assert ServerGenerator._stop_texts(asked) == [" ."]


def test_the_end_of_a_turn_is_the_first_stop_text(make_cached):
    with completions_server(software="llama") as site:
        generator = make_cached(site, cache=False)
        generator.stop_ids, generator.end_id = [0, 1, 2, 3, 4, 5], 5
        decode(generator, BASE[:1])
    (body,) = site.bodies
    assert body["stop"] == ["<|assistant|>", "<|bos|>", "<|end|>", "<|pad|>"]
    assert body["stop_token_ids"] == [5, 0, 1, 2, 3, 4]
    before, generator.end_id = generator._hash_request(), 4
    assert generator._hash_request() != before, "another one is left out"


@pytest.mark.parametrize(
    "trouble",
    [(429, {"Retry-After": "0.05"}), (503, {}), (500, {}), "drop", (502, {"Retry-After": "x"})],
    ids=["429", "503", "500", "drop", "502"],
)
def test_a_failure_is_tried_again(connect, trouble):
    with completions_server(troubles=[None, trouble, None, trouble]) as site:
        engine = connect(site)
        assert answers_of(engine, BASE) == expected(engine, BASE)
        assert set(site.answered.values()) == {1}
    assert engine.notes == []


def test_only_failures_in_a_row_give_a_server_up(connect):
    """One request at a time, each answered at the second try: more failures than tries."""
    with completions_server() as site:
        engine = connect(site, server_requests=1)
        for request in BASE[: server_client.TRIES + 2]:
            site.troubles.append((503, {}))
            assert answers_of(engine, [request]) == expected(engine, [request])
        assert engine.notes == []


def test_a_server_that_asks_to_wait_is_left_alone_and_others_take_its_prompts(connect):
    pauses = [(429, {"Retry-After": "30"})] * 4
    with completions_server(troubles=pauses) as busy, completions_server() as other:
        engine = connect(busy, other)
        assert answers_of(engine, BASE) == expected(engine, BASE)
        assert len(busy.bodies) == 4  # those it had when it said so first
        assert len(other.answered) == len(PROMPTS)


def test_a_wait_longer_than_the_timeout_gives_the_server_up(connect):
    complaint = pytest.raises(ResourceError, match="asks for a wait of 3,600 s")
    with completions_server(troubles=[(429, {"Retry-After": "3600"})] * 9) as site, complaint:
        answers_of(connect(site), BASE)


def test_a_server_that_dies_is_lost_and_the_others_finish(connect):
    with completions_server(troubles=[None] * 3 + ["die"]) as dying, completions_server() as other:
        engine = connect(dying, other)
        assert answers_of(engine, BASE) == expected(engine, BASE)
        total = dying.answered + other.answered
        assert len(total) == len(PROMPTS)
        received = sum(dying.answered.values()) + sum(other.answered.values())
        assert received <= len(PROMPTS) + 4  # no more than was under way on the one that died
        again = BASE[:3]
        assert answers_of(engine, again) == expected(engine, again)
    (note,) = engine.notes
    assert note.startswith(f"{dying.url} was lost after 3 answers (")


def test_when_all_servers_are_lost_the_answers_so_far_are_kept(make_cached):
    with completions_server(troubles=[None] * 9 + ["die"]) as site:
        first = make_cached(site, server_requests=1)
        with pytest.raises(ResourceError, match=f"all servers failed: {site.url}") as error:
            decode(first)
        assert "run the same command again" in error.value.hint
        assert first.decoded == 9
        site.is_dead = False
        second = make_cached(site)
        decode(second)
        assert (second.decoded, second.reused) == (len(PROMPTS) - 9, 9)
        assert set(site.answered.values()) == {1}


def test_a_slow_answer_is_asked_for_elsewhere(connect):
    with completions_server(troubles=["slow"] * 4) as slow, completions_server() as other:
        engine = connect(slow, other, server_timeout=0.15)
        assert answers_of(engine, BASE) == expected(engine, BASE)


def test_a_server_that_was_started_anew_gets_its_adapters_again(connect, staged):
    requests = [Request(ids, staged[0]) for ids in PROMPTS]
    with completions_server() as site:
        engine = connect(site)
        answers_of(engine, requests[:3])
        site.adapters.clear()
        assert answers_of(engine, requests) == expected(engine, requests)
        assert sum(event.startswith("load") for event in site.events) == 4


def test_an_adapter_that_changes_nothing_is_an_error(connect, staged):
    with completions_server(ignores=True) as site, pytest.raises(IgnoredAdapterError):
        answers_of(connect(site), [Request(PROMPTS[0], staged[0])])
    assert not site.answered


def test_an_adapter_of_zeros_stands_in_where_the_base_model_is_mixed_with_an_adapter(
    connect, staged
):
    requests = [Request(ids, system) for system in (None, staged[0]) for ids in PROMPTS[:3]]
    with completions_server(mixes=True) as mixing, completions_server() as other:
        engine = connect(mixing)
        assert answers_of(engine, requests) == expected(engine, requests)
        assert "base" not in {model for model, _ in mixing.answered}
        (note,) = engine.notes
        assert note.startswith(
            f"{mixing.url} applies an adapter's weights when asked for the base model"
        )
        mixing.adapters.clear()  # started anew, and then without adapters to load
        mixing.troubles.append("drop")
        assert answers_of(engine, requests[:3]) == expected(engine, requests[:3])
        assert "base" not in {model for model, _ in mixing.answered}
        sound = connect(other)
        assert answers_of(sound, requests) == expected(sound, requests)
        assert not any("zeros" in model for model, _ in other.answered)
        assert sound.notes == []


@pytest.mark.parametrize(
    ("refusal", "kind", "hint"),
    [
        ((404, "No adapter found"), ResourceError, "--server-folder"),
        ((500, "LoRA rank 32 is greater than max_lora_rank 16."), ArtifactError, "--max-lora-rank"),
        ((500, "LoRA is not enabled."), ArtifactError, "--enable-lora"),
    ],
)
def test_an_adapter_that_cannot_be_loaded_stops_before_the_first_prompt(
    connect, staged, refusal, kind, hint
):
    with completions_server() as one, completions_server(refuses=refusal) as other:
        with pytest.raises(kind) as error:
            answers_of(connect(one, other), [Request(PROMPTS[0], staged[0])])
        assert other.url in error.value.message
        assert hint in error.value.hint
        assert "prompt" not in one.events + other.events


def changed(choice=None, **usage):
    """Return a function that changes the choice and the usage of an answer."""

    def change(answer):
        found = answer["choices"][0] | (choice or {})
        return answer | {"choices": [found], "usage": answer["usage"] | usage}

    return change


def test_an_answer_that_a_server_broke_off_is_asked_for_again(connect):
    """vLLM ends the answers under way with ``abort`` when it is stopped."""
    broken = [True] * 3

    def abort(answer):
        return changed({"finish_reason": "abort"})(answer) if broken and broken.pop() else answer

    with completions_server(bend=abort) as site:
        engine = connect(site)
        assert answers_of(engine, BASE) == expected(engine, BASE)
        assert sum(site.answered.values()) == len(BASE) + 3


@pytest.mark.parametrize(
    ("bend", "complaint"),
    [
        (changed(prompt_tokens=3), "counted 3 tokens in a prompt of 5 tokens"),
        (
            changed({"finish_reason": "length", "token_ids": None}, completion_tokens=3),
            "stopped an answer after 3 of 8 tokens",
        ),
        (changed({"finish_reason": "content_filter"}), r"broke off an answer \(content_filter\)"),
        (lambda a: {"error": {"message": "no GPU"}}, "not a completion: HTTP 200: no GPU"),
        (lambda a: a | {"choices": a["choices"] * 2}, "not a completion$"),
        (lambda a: a | {"choices": [{"message": {"content": "x"}}]}, "not a completion$"),
        (lambda a: a | {"choices": []}, "not a completion$"),
        (lambda a: a | {"usage": "none"}, "not a completion$"),
        (changed({"token_ids": 7}), "not a completion$"),
        (changed({"token_ids": ["a"]}), "not a completion$"),
        (changed({"text": None}), "not a completion$"),
        (lambda a: "data: {}", "not a completion$"),
    ],
    ids="read cut filter error two chat none usage number letter null stream".split(),
)
def test_a_wrong_answer_is_one_line(connect, bend, complaint):
    with completions_server(bend=bend) as site, pytest.raises(ResourceError) as error:
        answers_of(connect(site), BASE[:1])
    assert re.search(complaint, error.value.message)
    assert "token" in error.value.hint


def test_an_answer_is_stored_while_others_take_long(connect):
    """A kill then loses none of the answers that have arrived."""
    stored = []
    with completions_server(troubles=["slow", None, None, None]) as site:
        engine = connect(site)
        engine.generate(BASE[:4], lambda answers: stored.append(list(answers)))
    assert [len(part) for part in stored] == [3, 1]


def test_half_of_a_character_does_not_stop_the_run(connect):
    text = changed({"text": "a \ud83d", "token_ids": None})
    with completions_server(bend=text) as site:
        (answer,) = answers_of(connect(site), BASE[:1])
    assert answer.text == "a \N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    "likely", [None, {"top_logprobs": []}, {"top_logprobs": [{"a": 1}]}], ids=["no", "0", "text"]
)
def test_a_server_without_log_probabilities_is_one_line(connect, staged, likely):
    complaint = pytest.raises(ResourceError, match="not a completion|no log probabilities")
    bend = changed({"logprobs": likely})
    with completions_server(bend=bend) as site, complaint:
        answers_of(connect(site), [Request(PROMPTS[0], staged[0])])


def test_a_server_that_was_started_anew_without_adapters_is_lost(connect, staged):
    requests = [Request(ids, staged[0]) for ids in PROMPTS]
    with completions_server() as site, pytest.raises(ResourceError, match="cannot load adapters"):
        engine = connect(site)
        answers_of(engine, requests[:3])
        site.adapters.clear()
        site.loads = False
        answers_of(engine, requests)


def test_a_lost_server_is_noted_by_what_asked_it(make_cached):
    with completions_server(troubles=["die"]) as dying, completions_server() as other:
        generator = make_cached(dying, other)
        assert generator.notes == []
        decode(generator)
    (note,) = generator.notes
    assert note.startswith(f"{dying.url} was lost")


def test_a_prompt_that_is_refused_ends_the_run(connect):
    complaint = pytest.raises(ResourceError, match="rejected a prompt: HTTP 400: not now")
    with completions_server(troubles=[(400, {})]) as site, complaint:
        answers_of(connect(site), BASE)


def test_adapters_are_staged_in_the_shared_folder_and_named_by_its_path_there(
    make_cached, staged, tmp_path
):
    with completions_server() as site:
        generator = make_cached(site, server_folder=f"{tmp_path}=/there")
        with generator.staging() as scratch:
            assert scratch.parent == tmp_path
            assert scratch.stat().st_mode & 0o055 == 0o055, "servers may run as another user"
            path = stage_adapter(read_adapter(staged[0]), scratch)
            generator.decode([Request(PROMPTS[0], path)])
            _, seen = site.adapters.values()
            assert seen == f"/there/{scratch.name}/{path.name}"
        assert site.adapters == {}  # unloaded before its files are gone
        assert not scratch.exists()


def test_a_server_that_reads_too_few_tokens_is_refused(make_cached):
    complaint = pytest.raises(ConfigError, match="at most 47 tokens, .* may need 48")
    with completions_server(context=48) as site:
        make_cached(site)
        site.context = 47
        with complaint:
            make_cached(site)


def test_answers_are_reused_from_the_same_server_only(make_cached):
    """Its precision does not show; so another process, or another server, counts as another."""
    with completions_server() as site, completions_server() as other:
        decode(make_cached(site))

        def reused(*sites, **changes):
            generator = make_cached(*sites, **changes)
            decode(generator)
            return generator.reused

        assert reused(site) == len(PROMPTS)
        assert reused(site, dtype="bfloat16") == 0
        assert reused(other) == 0
        assert reused(site, other) == len(PROMPTS)
        site.started = "18.5"
        assert reused(site) == 0
        assert reused(site, server_label="fp8") == 0
        assert reused(other, server_label="fp8") == len(PROMPTS)
        site.root = "elsewhere"
        assert reused(site, server_label="fp8") == 0


def test_a_dry_run_names_the_servers_and_decodes_nothing(model_dir, corpus_dir, tmp_path):
    with completions_server() as site:
        settings = eval_settings(
            model_dir,
            corpus_dir,
            tmp_path / "out",
            **{"engine": "auto", "server": site.url, "server_model": "base"},
        )
        report = plan(settings)
        assert f"would decode on {site.url} (vllm 9.9, model base)" in report.notices
        site.context = 9
        with pytest.raises(ConfigError, match="at most .*9 tokens"):
            plan(settings)
    assert not site.bodies
