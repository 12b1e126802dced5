"""Chat templates that refuse the system role, ends that are no tokens, templates with errors."""

import shutil

import pytest
from helpers.evaluation import eval_settings
from helpers.models import CHAT_TEMPLATE, make_tokenizer
from helpers.training import task_settings
from tokenizers import processors

from adaptermix.errors import ArtifactError, DataError
from adaptermix.evaluation.evaluate import evaluate, plan
from adaptermix.generation.prompts import PromptEncoder
from adaptermix.training.task import train_task

TURN = "<|{{ m.role }}|>{{ m.content }}<|end|>"
END = "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
LOOP = "<|bos|>{% for m in messages %}"
GEMMA = (
    LOOP + "{% if m.role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + TURN + END
)
ALTERNATING = (
    LOOP + "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}" + TURN + END
)
SILENT = LOOP + "{% if m.role != 'system' %}" + TURN + "{% endif %}" + END
MESSAGES = [{"role": "system", "content": "slots"}, {"role": "user", "content": "wake me"}]


def encoder_of(template, **attributes):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    for name, value in attributes.items():
        setattr(tokenizer, name, value)
    return PromptEncoder(tokenizer)


@pytest.mark.parametrize("template", [GEMMA, ALTERNATING, SILENT])
def test_a_refused_system_text_is_in_the_first_user_turn(template):
    encoder = encoder_of(template)
    assert encoder.notes == []
    for _ in range(2):
        assert encoder.prompt_text(MESSAGES) == (
            "<|bos|><|user|>slots\n\nwake me<|end|><|assistant|>"
        )
    assert [
        note for note in encoder.notes if "does not support a system prompt" in note
    ] == encoder.notes
    assert len(encoder.notes) == 1
    assert encoder.prompt_text(MESSAGES[1:]) == "<|bos|><|user|>wake me<|end|><|assistant|>"
    assert encoder.prompt_text(MESSAGES[:1]) == "<|bos|><|user|>slots<|end|><|assistant|>"


def test_a_marker_of_several_tokens_does_not_end_answers():
    template = CHAT_TEMPLATE.replace("<|end|>", "<|im_end|>")
    encoder = encoder_of(template)
    assert encoder.end_id == encoder.tokenizer.eos_token_id
    (note,) = encoder.notes
    assert "'<|im_end|>', which is" in note
    assert "answers end with <|end|> instead" in note
    with pytest.raises(ArtifactError, match=r"'<\|im_end\|>', which is .* no end-of-sequence"):
        encoder_of(template, eos_token=None)


def test_what_follows_the_marker_does_not_matter():
    encoder = encoder_of(CHAT_TEMPLATE.replace("<|end|>", "<|end|>\nnext"), eos_token="<|pad|>")
    assert encoder.end_id == encoder.tokenizer.convert_tokens_to_ids("<|end|>")
    assert encoder.notes == []


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (CHAT_TEMPLATE + "{% endfor %}", "not valid: line 1"),
        ("{{ raise_exception('never') }}", "rejects the messages: never"),
        ("{{ messages[0].content + 1 }}", "rejects the messages"),
        ("{{ nothing.at.all }}", "needs the variable 'nothing', which prompts do not have"),
        ("{{ tools | length }}" + CHAT_TEMPLATE, "needs the variable 'tools'.* has no len"),
        ("{{ documents[0].title }}" + CHAT_TEMPLATE, "needs the variable 'documents'"),
    ],
)
def test_a_template_that_writes_no_question_is_refused(template, why):
    with pytest.raises(ArtifactError, match=why):
        encoder_of(template)


def test_a_system_turn_that_needs_tools_is_noted_for_what_it_is():
    turn = "{% if messages[0].role == 'system' %}{{ tools | length }}{% endif %}"
    encoder = encoder_of(turn + CHAT_TEMPLATE)
    prompt = encoder.prompt_text(MESSAGES)
    (note,) = encoder.notes
    assert note.startswith("with a system prompt, ")
    assert "needs the variable 'tools', which prompts do not have: object of type" in note
    assert note.endswith("; the system prompt is put at the start of the first user turn")
    assert prompt == "<|bos|><|user|>slots\n\nwake me<|end|><|assistant|>"


def test_of_several_templates_the_default_is_used_and_without_one_all_are_named():
    several = {"tool_use": "T" + CHAT_TEMPLATE, "default": CHAT_TEMPLATE}
    assert encoder_of(several).prompt_text(MESSAGES) == encoder_of(CHAT_TEMPLATE).prompt_text(
        MESSAGES
    )
    with pytest.raises(ArtifactError, match="templates tool_use, rag, and none is the") as error:
        encoder_of({"tool_use": CHAT_TEMPLATE, "rag": CHAT_TEMPLATE})
    assert "--chat-template" in error.value.hint


def test_a_template_that_refuses_some_messages_says_so():
    with pytest.raises(DataError, match="rejects the messages: Conversation roles must alternate"):
        encoder_of(ALTERNATING).prompt_ids([MESSAGES[1], MESSAGES[1]])


def test_commands_take_a_model_without_system_role(tmp_path, model_dir, corpus_dir):
    model = shutil.copytree(model_dir, tmp_path / "m")
    (model / "chat_template.jinja").write_text(GEMMA)
    settings = eval_settings(model, corpus_dir, tmp_path / "e", system_prompt="slots", limit=2)
    planned = plan(settings)
    assert "does not support a system prompt" in planned.notices[0]
    assert "notes" not in planned.as_record()
    assert planned.notices[0] in evaluate(settings).notes
    training = task_settings(model, corpus_dir, tmp_path / "t", system_prompt="slots")
    report = train_task(training, dry_run=True)
    assert list(report.notices) == list(planned.notices)
    assert list(report.as_record()["data_notes"]) == list(planned.notices)


def test_a_template_of_ones_own_is_asked_with(tmp_path, model_dir, corpus_dir):
    path = tmp_path / "own.jinja"
    path.write_text(CHAT_TEMPLATE.replace("<|user|>", "Q:").replace("<|{{ message.role }}|>", "T "))
    settings = eval_settings(model_dir, corpus_dir, tmp_path / "e", chat_template=path)
    text = PromptEncoder.of(make_tokenizer(), settings).prompt_text(MESSAGES)
    assert text == "<|bos|>T slots<|end|>T wake me<|end|><|assistant|>"
    path.unlink()
    with pytest.raises(DataError, match=r"own.jinja: no such file"):
        plan(settings)
    path.write_text("{% for %}")
    with pytest.raises(ArtifactError, match=r"own.jinja: the chat template is not valid: line 1"):
        plan(settings)


PARTS = (
    LOOP + "<|{{ m.role }}|>{% for part in m.content %}{% if part.type == 'text' %}"
    "{{ part.text }}{% endif %}{% endfor %}<|end|>" + END
)


def test_a_template_that_wants_parts_gets_the_text_as_one():
    encoder, plain = encoder_of(PARTS), encoder_of(CHAT_TEMPLATE)
    assert encoder.prompt_text(MESSAGES) == plain.prompt_text(MESSAGES)
    assert encoder.end_id == plain.end_id
    given = [{"role": "user", "content": [{"type": "text", "text": "wake me"}]}]
    assert encoder.prompt_text(given) == plain.prompt_text(MESSAGES[1:])
    assert encoder.notes == []


def test_a_question_that_is_left_out_beside_a_system_text_is_written_with_it():
    encoder = encoder_of("{{ messages[0].content }}<|end|>")
    assert encoder.prompt_text(MESSAGES) == "slots\n\nwake me<|end|>"


def test_a_template_with_the_date_of_today_is_told():
    encoder = encoder_of("{{ strftime_now('%Y') }}" + CHAT_TEMPLATE)
    (note,) = encoder.notes
    assert "today's date" in note
    assert "--chat-template" in note


def test_a_prompt_does_not_end_in_the_end_that_a_tokenizer_adds():
    ended = make_tokenizer()
    ended.chat_template = None
    plain = PromptEncoder(ended).prompt_ids(MESSAGES)
    ended.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A <|end|>", special_tokens=[("<|bos|>", 0), ("<|end|>", 1)]
    )
    assert ended("wake me")["input_ids"][-1] == 1
    assert PromptEncoder(ended).prompt_ids(MESSAGES) == plain


ASKED = "{% if add_generation_prompt %}<|assistant|>"
EMPTY = "<think>\n\n</think>\n\n"
WITH_EMPTY = TURN.replace("{{ m.c", "{% if m.role == 'assistant' %}" + EMPTY + "{% endif %}{{ m.c")
# The ends of real templates: Qwen 3, Qwen 3.5, DeepSeek R1, GLM 4.5, gpt-oss.
REASONING = {
    "switch": (
        WITH_EMPTY
        + "{% endfor %}"
        + ASKED
        + "{% if enable_thinking is defined and not enable_thinking %}"
        + EMPTY
        + "{% endif %}",
        EMPTY,
    ),
    "open": (WITH_EMPTY + "{% endfor %}" + ASKED + "<think>\n", EMPTY),
    "always": (TURN + "{% endfor %}" + ASKED + "<think>\n", ""),
    "silent": (WITH_EMPTY + "{% endfor %}" + ASKED, EMPTY),
    "channel": (
        TURN.replace(
            "{{ m.c", "{% if m.role == 'assistant' %}<|channel|>final<|message|>{% endif %}{{ m.c"
        )
        + "{% endfor %}"
        + ASKED,
        "<|channel|>final<|message|>",
    ),
}


@pytest.mark.parametrize("kind", REASONING)
def test_prompts_end_as_before_an_answer_without_reasoning(kind):
    template, opening = REASONING[kind]
    encoder = encoder_of(LOOP + template + "{% endif %}")
    prompt = encoder.prompt_text(MESSAGES[1:])
    assert prompt == "<|bos|><|user|>wake me<|end|><|assistant|>" + opening
    answered = [*MESSAGES[1:], {"role": "assistant", "content": "five"}]
    assert encoder.prompt_text(answered, is_answered=True) == prompt + "five<|end|>"
    (note,) = encoder.notes
    assert "without reasoning" in note


def test_what_turns_reasoning_off_stays_in_prompts():
    ends = "<think></think>"
    switch = "{% if not enable_thinking|default(true) %}" + ends + "{% endif %}"
    encoder = encoder_of(LOOP + TURN + "{% endfor %}" + ASKED + switch + "{% endif %}")
    prompt = "<|bos|><|user|>wake me<|end|><|assistant|>"
    assert encoder.prompt_text(MESSAGES[1:]) == prompt + ends
    assert encoder.prompt_text(MESSAGES[1:], may_reason=True) == prompt
    (note,) = encoder.notes
    assert "without reasoning" in note


def test_a_template_that_writes_no_role_before_an_answer_is_given_it():
    encoder = encoder_of(LOOP + TURN + "{% endfor %}")
    prompt = "<|bos|><|user|>wake me<|end|><|assistant|>"
    assert encoder.prompt_text(MESSAGES[1:]) == prompt
    assert encoder.prompt_text(MESSAGES[1:], may_reason=True) == prompt
    assert encoder.notes == []


FORGETFUL = (
    LOOP + "{% if m.role == 'user' %}" + TURN + "{% else %}{{ m.content }}<|end|>{% endif %}" + END
)
SPACED = LOOP + TURN.replace("{{ m.c", " {{ m.c") + END


@pytest.mark.parametrize("template", [FORGETFUL, SPACED, CHAT_TEMPLATE])
def test_prompts_of_other_templates_are_unchanged(template):
    encoder = encoder_of(template)
    assert encoder.prompt_text(MESSAGES[1:]).endswith("<|end|><|assistant|>")
    assert encoder.notes == []
