"""MASSIVE: slot filling in 52 languages."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adaptermix.data.chats import Message
from adaptermix.data.languages import find_language, hint_of_language, is_one_language
from adaptermix.errors import DataError, MissingDataError
from adaptermix.files.hub import hub_parquet
from adaptermix.files.text import Split, json_rows, parquet_columns, parquet_rows
from adaptermix.settings.shared import ScorerSettings
from adaptermix.sources.catalog import MASSIVE_LOCALES
from adaptermix.tasks.metrics import f1 as metrics
from adaptermix.tasks.metrics.metric import Metric, Outcome, chosen
from adaptermix.tasks.slots import (
    bio_tags,
    label_answer,
    label_gold,
    parse_answer,
    render_answer,
    slots_of,
    without_marks,
)
from adaptermix.tasks.task import Task, chat_of

MASSIVE_REPO = "AmazonScience/massive"


@dataclass(frozen=True)
class SlotExample:
    """One utterance of MASSIVE; ``locale`` sets how the paper's scorer tokenizes it."""

    id: str
    lang: str
    utterance: str
    annotated: str
    locale: str = ""


def massive_locale(lang: str) -> str:
    """Return the MASSIVE locale of a language (``cy``, ``cym``, ``Welsh``) or locale (``cy-GB``).

    Raises:
        DataError: MASSIVE has no such language.
    """
    said = lang.replace("_", "-").casefold()
    for locale in MASSIVE_LOCALES:
        if said in (locale.casefold(), locale.split("-")[0]):
            return locale
    for locale in MASSIVE_LOCALES:
        if is_one_language(lang, locale):
            return locale
    raise DataError(
        f"MASSIVE has no language '{lang}'", hint=hint_of_language(lang, MASSIVE_LOCALES)
    )


def read_massive(lang: str, split: Split, data_dir: Path | None) -> list[SlotExample]:
    """Read one language and partition of MASSIVE, in file order.

    Args:
        lang: Language code or locale.
        split: Partition; MASSIVE calls its development set ``dev``.
        data_dir: Folder with ``{locale}.jsonl``, ``.jsonl.gz`` or ``.parquet``, directly or in a
            subfolder. If None, the Hub's parquet copy is read.

    Raises:
        DataError: The language is unknown, there is no such file or more than one, or the rows
            are malformed or missing.
        ResourceError: The Hub is needed and cannot be reached.
    """
    locale = massive_locale(lang)
    if data_dir is None:
        hub_split = "validation" if split == "dev" else split
        paths = hub_parquet(MASSIVE_REPO, locale, hub_split)
    else:
        endings = (".jsonl", ".jsonl.gz", ".parquet")
        names = [f"{locale}{end}" for end in endings]
        named = r"([a-z]{2}-[A-Z]{2})\.(?:jsonl|jsonl\.gz|parquet)"
        paths = [find_language(data_dir, names, lang, f"MASSIVE {locale}", named)]
    wanted = None if data_dir is None else split
    rows = [row for path in paths for row in read_massive_file(path, lang, wanted)]
    if not rows:
        raise MissingDataError(f"{paths[0]}: no rows of the {split} partition")
    return rows


def read_massive_file(path: Path, lang: str, split: Split | None) -> list[SlotExample]:
    """Read the rows of one partition, or of all partitions, from one file of MASSIVE.

    Raises:
        DataError: The language is unknown, the file is in another language, or a row is malformed.
    """
    locale = massive_locale(lang)
    rows = []
    for row in _massive_rows(path):
        said = str(row.get("locale", locale))
        if said.split("-")[0] != locale.split("-")[0]:
            raise DataError(f"{path}: contains {said}, not {locale}")
        if split is None or row["partition"] == split:
            rows.append(SlotExample(str(row["id"]), lang, row["utt"], row["annot_utt"], said))
    return rows


def _massive_rows(path: Path) -> Iterator[dict[str, Any]]:
    fields = ("id", "partition", "utt", "annot_utt")
    if path.suffix == ".parquet":
        known = [name for name in ("locale",) if name in parquet_columns(path)]
        rows: Iterator[tuple[int, Any]] = enumerate(parquet_rows(path, [*fields, *known]), start=1)
    else:
        rows = json_rows(path)
    for number, row in rows:
        missing = [f for f in fields if not isinstance(row, dict) or f not in row]
        if missing:
            raise DataError(f"{path}:{number}: no field '{missing[0]}'")
        if not isinstance(row["utt"], str) or not isinstance(row["annot_utt"], str):
            raise DataError(f"{path}:{number}: 'utt' and 'annot_utt' must be text")
        if {"[", "]"} & {*without_marks(row["annot_utt"])}:
            raise DataError(
                f"{path}:{number}: 'annot_utt' has a bracket that is not part of a slot",
                hint="write each slot as [type : value]",
            )
        yield row


# The paper's appendix D.2 omits the middle sentence, which the released training data contains.
_SLOT_TASK = (
    "Given a command from the user, a voice assistant will extract entities essential for carry "
    "out the command.{example} Your task is to extract the entities as words from the command if "
    "they fall under a predefined list of entity types."
)
# Also from appendix D.2, for a base model without task training; it lists the types. The paper
# prints two of MASSIVE's 55 types as one, "person_email_folder"; here they are separate.
_ZERO_SHOT = """\
Given a command from the user, a voice assistant like Siri or Olly will extract entities from the \
command that are essential for carry out the the command. For example, for a command about playing \
a specific song, the name of the song mentioned by the user would be an entity, falling under the \
type of "song name".

Your task is to extract the entities as words from the command if they fall under any of the types \
given below according to the following description:

transport_descriptor house_place music_album sport_type playlist_name movie_name song_name \
place_name radio_name cooking_type weather_descriptor person email_folder business_type \
audiobook_author transport_type general_frequency meal_type game_name device_type transport_name \
time_zone joke_type drink_type email_address food_type date relation currency_name ingredient \
player_setting movie_type definition_word game_type list_name artist_name personal_info \
audiobook_name timeofday transport_agency media_type podcast_name coffee_type business_name \
news_topic app_name podcast_descriptor color_type music_genre event_name time change_amount \
alarm_type order_type music_descriptor

Please give answers like:

1. person: john; contact_field: phone number
2. transport_app: uber; time_of_day: tonight; time: ten pm
3. None
4. music_genre: jazz

etc., each taking a single line. The entity type must be one of the types given above, and the \
entity must be copied verbatim from the command. There could be zero, one, or multiple entities in \
a command."""
SYSTEM_PROMPTS = {
    "paper": _SLOT_TASK.format(example=""),
    "authors-code": _SLOT_TASK.format(
        example="\nFor example, for a command about playing a specific song, the name of the song "
        'mentioned by the user would be an entity, falling under the type of "song name".\n'
    ).replace("\n Your", "\nYour"),
    "zero-shot": _ZERO_SHOT,
}


@dataclass(frozen=True)
class Massive(Task):
    """Slot filling on MASSIVE as text generation: ``time: five am; date: this week``.

    ``options.scorer`` is ``strict`` (types and values) or ``paper`` (the authors' script).
    """

    system_prompt: str = SYSTEM_PROMPTS["paper"]
    options: ScorerSettings = ScorerSettings()
    name: str = "massive"

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """Slot F1, computed by one of two scorers."""
        slot_f1 = metrics.SLOT_F1 if self.options.scorer == "strict" else metrics.SpanF1()
        return chosen([slot_f1], self.options.metrics, self.name)

    def read(self, lang: str, split: Split, data_dir: Path | None) -> list[SlotExample]:
        """Return the examples of one language, in file order."""
        return read_massive(lang, split, data_dir)

    def messages(self, example: SlotExample) -> list[Message]:
        """Return the system prompt, if there is one, and the utterance."""
        return chat_of(self.system_prompt, example.utterance)

    def answer(self, example: SlotExample) -> str:
        """Return the slots as ``type: value; type: value``, or ``None``."""
        return render_answer(slots_of(example.annotated))

    def is_labeled(self, example: SlotExample) -> bool:
        """Whether an example has a slot; the tags of the paper's scorer are never empty."""
        return bool(slots_of(example.annotated))

    def outcome(self, example: SlotExample, output: str) -> Outcome:
        """Parse the slots of one model output; for the paper's scorer, return BIO tags."""
        if self.options.scorer == "paper":
            gold = label_gold(example.utterance, example.annotated, example.locale)
            labels, malformed = label_answer(output, gold, example.locale)
            return Outcome(bio_tags(labels), bio_tags(gold.labels), malformed)
        answer = parse_answer(output)
        return Outcome(answer.slots, slots_of(example.annotated), answer.malformed)
