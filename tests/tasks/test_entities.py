import gzip
import random

import hypothesis
import pytest
from helpers.corpus import SHARED
from hypothesis import given, settings
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from adaptermix.errors import DataError
from adaptermix.files.text import numbered_lines
from adaptermix.tasks.entities import Entity, parse_entities, render_entities
from adaptermix.tasks.uner import ENTITY_TYPES, read_iob2, read_uner

IGUAZU = Entity("LOC", "Iguazu", 22, 28)
ANN = Entity("PER", "Ann O'Hara", 0, 10)
NAMES = st.text(min_size=1, max_size=20).filter(lambda text: text.strip())
ENTITIES = st.lists(
    st.builds(
        Entity,
        st.sampled_from(["PER", "ORG", "LOC"]),
        NAMES,
        st.integers(0, 500),
        st.integers(0, 500),
    ),
    max_size=4,
)
IOB2 = """# newdoc id = a
# sent_id = a-1
# text = Al-Zaman met Ann O'Hara (in Qaim).
1\tAl\tB-ORG\t-\tx
2\t-\tI-ORG\t-\tx
3\tZaman\tI-ORG\t-\tx
4\tmet\tO\t-\tx
5\tAnn\tB-PER\t-\tx
6\tO'Hara\tI-PER\t-\tx
7\t(\tO\t-\tx
8\tin\tO\t-\tx
9\tQaim\tI-LOC\t-\tx
10\t)\tB-OTH\t-\tx
11\t.\tO\t-\tx

# sent_id = a-2
1\t#\tO\t-\tx
2\tParis\tB-LOC\t-\tx
3\tRome\tB-LOC\t-\tx
"""


def test_an_answer_is_written_as_the_paper_has_it():
    assert render_entities([IGUAZU]) == (
        '"Results": [{"TypeName": "LOC", "Text": "Iguazu", "Start": 22, "End": 28}]'
    )
    assert render_entities([]) == '"Results": []'


@given(ENTITIES)
@hypothesis.example([Entity("ORG", "The Results: [", 0, 14), IGUAZU])
def test_reading_a_rendered_answer_gives_the_entities_back(entities):
    assert parse_entities(render_entities(entities)) == (entities, 0)


@given(ENTITIES)
def test_an_answer_without_its_last_bracket_loses_nothing(entities):
    answer = render_entities(entities)[:-1]
    if entities:
        assert parse_entities(answer) == (entities, 0)


ROW = '{"TypeName": "LOC", "Text": "Iguazu", "Start": 22, "End": 28}'
BARE = '"TypeName": "LOC", "Text": "Iguazu", "Start": 22, "End": 28'
ANN_ROW = '{"TypeName": "PER", "Text": "Ann O\'Hara", "Start": 0, "End": 10}'


@pytest.mark.parametrize(
    ("answer", "entities", "malformed"),
    [
        (f'"Results": [{ROW}]', [IGUAZU], 0),
        (f'{{"Results": [{ROW}]}}', [IGUAZU], 0),
        (f"[{ROW}]", [IGUAZU], 0),
        (f'```json\n{{"Results": [{ROW}]}}\n```', [IGUAZU], 0),
        (f'Here you are:\n"Results": [{ROW}]\nLet me know if', [IGUAZU], 0),
        (f'Here are the results:\n"Results": [{ROW}]', [IGUAZU], 0),
        (f'The output result: {{"Results": [{ROW}]}}', [IGUAZU], 0),
        (f"Results:\n```json\n[{ROW}]\n```", [IGUAZU], 0),
        (f'"Results": [{ROW}] Example: "Results": [{ANN_ROW}]', [IGUAZU], 0),
        (f'"Results": [{BARE}] Example: "Results": [{ANN_ROW}]', [IGUAZU], 0),
        (f"'Results': [{ROW}]".replace('"', "'"), [IGUAZU], 0),
        (
            "'Results': [{'TypeName': 'PER', 'Text': 'Ann O'Hara', 'Start': 0, 'End': 10}]",
            [ANN],
            0,
        ),
        (
            "'Results': [{'TypeName': 'ORG', 'Text': 'Results: A', 'Start': 0, 'End': 10}]",
            [Entity("ORG", "Results: A", 0, 10)],
            0,
        ),
        (f'"Results": [{ROW}', [IGUAZU], 0),
        (f'"Results": {ROW}', [IGUAZU], 0),
        (f'"Results": [{BARE}]', [IGUAZU], 0),  # as the paper prints it
        (f'"Results": [{BARE} , {BARE}]', [IGUAZU, IGUAZU], 0),
        (f'"Results": [{ROW}, {ROW}]', [IGUAZU, IGUAZU], 0),
        (f'"Results": [{ROW}, {{"TypeName": "PER", "Text": "An', [IGUAZU], 1),
        (f'"Results": [{ROW}, {{"TypeName": "PER"}}, {ROW}]', [IGUAZU, IGUAZU], 1),
        (f'"Results": [{ROW}, {{"TypeName": "PER", "Text": null}}]', [IGUAZU], 1),
        ('"Results": [{"TypeName": "loc", "Text": "Iguazu"}]', [Entity("LOC", "Iguazu")], 0),
        (
            '"Results": [{"TypeName": "ORG", "Text": "The "B" Team", "Start": 1, "End": "13"}]',
            [Entity("ORG", 'The "B" Team', 1, 13)],
            0,
        ),
        (
            '"Results": [{"TypeName": "ORG", "Text": "caf\\u00e9", "Start": 1, "End": 5}',
            [Entity("ORG", "café", 1, 5)],
            0,
        ),
        ('"Results": []', [], 0),
        ('{"Results": []}', [], 0),
        ("Results: [ ]", [], 0),
        (f'"Results": []{BARE}]', [IGUAZU], 0),
        ('"Results": [] There are no other results: none.', [], 0),
        ('"Results": [', [], 1),
        ('"Results": null', [], 1),
        ('"Results": [1, 2]', [], 1),
        ("There are no entities.", [], 1),
        ("", [], 1),
    ],
)
def test_answers_are_read_in_any_state_of_repair(answer, entities, malformed):
    assert parse_entities(answer) == (entities, malformed)


@settings(max_examples=500)
@given(st.text())
def test_any_text_can_be_read(text):
    entities, malformed = parse_entities(text)
    assert malformed >= 0
    for entity in entities:
        entity.text.encode()  # a half of a character could not be written to a file
    assert entities or malformed or "[" in text


def mutated(rng, answer):
    """Cut, double, swap or replace a piece of an answer."""
    start, end = sorted(rng.choices(range(len(answer) + 1), k=2))
    junk = rng.choice(['"', "'", "{", "}", "[", "]", "\\", "\n", "\0", "\u202e", ",", ":", "```"])
    pieces = [answer[:start], answer[start:end], answer[end:]]
    kind = rng.randrange(5)
    if kind == 0:
        return answer[:end]
    if kind == 1:
        return pieces[0] + junk + pieces[2]
    if kind == 2:
        return pieces[0] + pieces[1] * 2 + pieces[2]
    if kind == 3:
        return answer.replace('"', junk)
    return pieces[0] + junk + pieces[1] + junk + pieces[2]


def test_ten_thousand_damaged_answers_are_read_or_counted():
    rng = random.Random(0)
    names = [
        "Iguazu",
        "São Tomé",
        "Ann O'Hara",
        'The "B" Team',
        "北京",
        "القاهرة",
        "a\\b",
        "x, y: z",
    ]
    silent = 0
    for _ in range(10_000):
        entities = [
            Entity(rng.choice(["PER", "ORG", "LOC"]), rng.choice(names), at, at + 5)
            for at in range(rng.randrange(1, 5))
        ]
        found, malformed = parse_entities(mutated(rng, render_entities(entities)))
        silent += not found and not malformed
    assert silent < 50  # a cut that leaves '"Results": []' is an answer


def uner_files():
    return sorted((SHARED / "data" / "uner").glob("*.iob2*"))


@pytest.mark.slow
@pytest.mark.skipif(not uner_files(), reason="the real UNER files are not on this machine")
def test_every_sentence_of_uner_survives_rendering_and_reading():
    rng = random.Random(0)
    count = mutants = 0
    for path in uner_files():
        rows = (line for _, line in numbered_lines(path) if not line.startswith("#"))
        tags = [line.split("\t")[2] if line else "O" for line in rows]
        examples = read_iob2(path, path.name[:2])
        for example in examples:
            answer = render_entities(example.entities)
            assert parse_entities(answer) == (list(example.entities), 0)
            for entity in example.entities:
                assert example.utterance[entity.start : entity.end] == entity.text
            if rng.random() < 0.25:
                parse_entities(mutated(rng, answer))
                mutants += 1
        spans = [span for span in get_entities(tags) if span[0] in ENTITY_TYPES]
        assert sum(len(example.entities) for example in examples) == len(spans)
        count += len(examples)
    assert count == 57_501  # sentences in the 21 files, as their makers count them
    assert mutants > 10_000


def test_entities_have_the_offsets_of_their_text(tmp_path):
    path = tmp_path / "xx.iob2"
    path.write_text(IOB2, encoding="utf-8")
    first, second = read_iob2(path, "en")
    assert (first.id, first.utterance) == ("a-1", "Al-Zaman met Ann O'Hara (in Qaim).")
    assert first.entities == (
        Entity("ORG", "Al-Zaman", 0, 8),
        Entity("PER", "Ann O'Hara", 13, 23),
        Entity("LOC", "Qaim", 28, 32),  # I- after O begins an entity; OTH is not asked for
    )
    assert second.utterance == "# Paris Rome"  # no text comment: tokens with spaces between
    assert second.entities == (Entity("LOC", "Paris", 2, 7), Entity("LOC", "Rome", 8, 12))


@pytest.mark.parametrize("name", ["en.test.iob2.gz", "en_ewt-ud-test.iob2.gz"])
def test_a_compressed_file_is_found_and_ids_are_those_of_the_file(tmp_path, name):
    """A sentence without an ID, or with that of another one, gets a different one."""
    sentence = "1\tRome\tB-LOC\n\n"
    text = f"# sent_id = a\n{sentence}# sent_id = a\n{sentence}{sentence}"
    (tmp_path / name).write_bytes(gzip.compress(text.encode()))
    assert [example.id for example in read_uner("en", "test", tmp_path)] == ["a", "a (line 6)", "2"]


def test_a_text_that_is_not_its_tokens_gives_way_to_them(tmp_path):
    path = tmp_path / "xx.iob2"
    path.write_text("# text = do Rio\n1\tde\tO\n2\to\tO\n3\tRio\tB-LOC\n", encoding="utf-8")
    (example,) = read_iob2(path, "pt")
    assert (example.utterance, example.entities) == ("de o Rio", (Entity("LOC", "Rio", 5, 8),))


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("1\tAl\n", r"iob2:1: expected a token with a tag"),
        ("1\tAl\tO\n2\tb\tPER\n", r"iob2:2: expected a token with a tag"),
        ("# text = a\n", "no sentences"),
        ("", "the file is empty"),
    ],
)
def test_malformed_files_are_named_with_their_line(tmp_path, content, complaint):
    path = tmp_path / "da.test.iob2"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=complaint):
        read_uner("da", "test", tmp_path)


def test_words_that_are_not_annotated_are_outside(tmp_path):
    """The Norwegian files of UNER have words derived from names so."""
    path = tmp_path / "nob_norne-ud-test.iob2"
    path.write_text("1\tEU-debatt\t-\tB-DRV\t-\n2\tOslo\tB-LOC\t-\t-\n", encoding="utf-8")
    (example,) = read_uner("nob", "test", tmp_path)
    assert example.entities == (Entity("LOC", "Oslo", 10, 14),)


def test_official_names_are_found_too(tmp_path):
    (tmp_path / "UNER_Croatian-SET").mkdir()
    path = tmp_path / "UNER_Croatian-SET" / "hr_set-ud-test.iob2"
    path.write_text(IOB2, encoding="utf-8")
    assert len(read_uner("hr", "test", tmp_path)) == 2
    with pytest.raises(DataError, match="no UNER hr dev"):
        read_uner("hr", "dev", tmp_path)
    with pytest.raises(DataError, match="unknown language 'qq'"):
        read_uner("qq", "dev", tmp_path)
    with pytest.raises(DataError, match="not downloaded from the Hub"):
        read_uner("hr", "dev", None)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-PER I-PER O", ["PER a b"]),
        ("B-PER I-LOC O", ["PER a", "LOC b"]),  # of another type: it starts an entity
        ("B-PER B-PER I-PER", ["PER a", "PER b c"]),
        ("O I-ORG I-ORG", ["ORG b c"]),
        ("B-LOC O I-LOC", ["LOC a", "LOC c"]),
        ("B-LOC I-OTH I-LOC", ["LOC a", "LOC c"]),
    ],
)
def test_a_tag_continues_only_an_entity_of_its_type_right_before_it(tmp_path, tags, expected):
    path = tmp_path / "en.test.iob2"
    rows = zip("123", "abc", tags.split(), strict=True)
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    (example,) = read_iob2(path, "en")
    assert [f"{entity.type} {entity.text}" for entity in example.entities] == expected
