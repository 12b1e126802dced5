"""The catalog of public data for the readers and the paper's recipes.

Digests were published by several independent users of a file, or are git object ids. If there is
none, the first download is recorded, and later ones are compared with it.
"""

from collections.abc import Sequence

from adaptermix.sources.named_entities import UNER, UNER_AYA
from adaptermix.sources.source import Member, Remote, Source
from adaptermix.sources.translations import ALMA, WMT23

_HUB = "https://huggingface.co/datasets/"

# Locales of MASSIVE 1.1; a bare language code stands for the first locale listed for it.
MASSIVE_LOCALES: tuple[str, ...] = tuple(
    """
    af-ZA am-ET ar-SA az-AZ bn-BD ca-ES cy-GB da-DK de-DE el-GR en-US es-ES fa-IR fi-FI fr-FR he-IL
    hi-IN hu-HU hy-AM id-ID is-IS it-IT ja-JP jv-ID ka-GE km-KH kn-IN ko-KR lv-LV ml-IN mn-MN ms-MY
    my-MM nb-NO nl-NL pl-PL pt-PT ro-RO ru-RU sl-SL sq-AL sv-SE sw-KE ta-IN te-IN th-TH tl-PH tr-TR
    ur-PK vi-VN zh-CN zh-TW
    """.split()
)


def _massive(locales: Sequence[str]) -> list[Remote]:
    members = tuple(Member(f"{locale}.jsonl", f"1.1/data/{locale}.jsonl") for locale in locales)
    digest = "sha256:4cba5faa11c71437928e17cb1b9b3d8b8e727e7ea363a3a9a8045e19c0491577"
    return [Remote("amazon-massive-dataset-1.1.tar.gz", members, 40_251_390, digest)]


_MASSIVE = Source(
    name="massive",
    title="MASSIVE 1.1",
    folder="massive",
    address="https://amazon-massive-nlu-dataset.s3.amazonaws.com/",
    page="https://github.com/alexa/massive",
    license="CC BY 4.0",
    citation="FitzGerald et al. 2023, MASSIVE: A 1M-Example Multilingual Natural Language "
    "Understanding Dataset with 51 Typologically-Diverse Languages, ACL",
    by="langs",
    known=MASSIVE_LOCALES,
    default=MASSIVE_LOCALES,
    remotes=_massive,
)


def _flores(codes: Sequence[str]) -> list[Remote]:
    members = tuple(
        Member(f"{code}.{split}", f"flores200_dataset/{split}/{code}.{split}")
        for code in codes
        for split in ("dev", "devtest")
    )
    digest = "sha256:b8b0b76783024b85797e5cc75064eb83fc5288b41e9654dabc7be6ae944011f6"
    return [Remote("flores200_dataset.tar.gz", members, 25_585_843, digest)]


# The 35 languages of the paper's analysis, and the languages of its other tables.
_FLORES_CODES = tuple(
    """
    afr_Latn amh_Ethi arb_Arab azj_Latn ben_Beng ces_Latn cym_Latn dan_Latn deu_Latn ell_Grek
    eng_Latn spa_Latn fra_Latn heb_Hebr hin_Deva hrv_Latn hun_Latn hye_Armn ind_Latn isl_Latn
    ita_Latn jpn_Jpan jav_Latn kat_Geor khm_Khmr kan_Knda kor_Hang lvs_Latn khk_Cyrl por_Latn
    rus_Cyrl slk_Latn srp_Cyrl swe_Latn swh_Latn tha_Thai tgl_Latn tur_Latn ukr_Cyrl urd_Arab
    zho_Hans
    """.split()
)
_FLORES = Source(
    name="flores",
    title="FLORES-200",
    folder="flores200",
    address="https://dl.fbaipublicfiles.com/nllb/",
    page="https://github.com/facebookresearch/flores",
    license="CC BY-SA 4.0",
    citation="NLLB Team 2022, No Language Left Behind: Scaling Human-Centered Machine Translation, "
    "arXiv:2207.04672",
    by="langs",
    known=(),
    default=_FLORES_CODES,
    remotes=_flores,
)

_OTHER_NAMES = {"zh": "cmn", "ms": "zsm"}  # language codes in OPUS Tatoeba


def _tatoeba(pairs: Sequence[str]) -> list[Remote]:
    return [_tatoeba_pair(sorted(pair.split("-"))) for pair in pairs]


def _tatoeba_pair(codes: Sequence[str]) -> Remote:
    plain = _tatoeba_archive(codes, {code: code for code in codes})
    if not _OTHER_NAMES.keys() & set(codes):
        return plain
    other = _tatoeba_archive(codes, {code: _OTHER_NAMES.get(code, code) for code in codes})
    return Remote(other.path, other.members, other=plain)


def _tatoeba_archive(codes: Sequence[str], upstream: dict[str, str]) -> Remote:
    pair = "-".join(sorted(upstream.values()))
    members = (
        Member(f"Tatoeba.{'-'.join(codes)}.{code}", f"Tatoeba.{pair}.{upstream[code]}")
        for code in codes
    )
    return Remote(f"{pair}.txt.zip", tuple(members))


TATOEBA = Source(
    name="tatoeba",
    title="Tatoeba, OPUS v2021-07-22",
    folder="tatoeba",
    address="https://object.pouta.csc.fi/OPUS-Tatoeba/v2021-07-22/moses/",
    page="https://opus.nlpl.eu/Tatoeba",
    license="CC BY 2.0 FR",
    citation="Tiedemann 2012, Parallel Data, Tools and Interfaces in OPUS, LREC; "
    "sentences by the contributors of tatoeba.org",
    by="pairs",
    known=(),
    default=tuple(
        f"{code}-en" for code in "ar cy da de el es hi ja jv ru sv sw th tl tr zh".split()
    ),
    remotes=_tatoeba,
    notes=("training drops pairs with several sentences, as the paper does",),
)


def _iwslt(pairs: Sequence[str]) -> list[Remote]:
    remotes = []
    for pair in pairs:
        source, target = pair.split("-")
        members = tuple(
            Member(f"IWSLT17.{pair}.{code}", f"{pair}/train.tags.{pair}.{code}", is_tagged=True)
            for code in (source, target)
        )
        path = f"data/2017-01-trnted/texts/{source}/{target}/{pair}.zip"
        remotes.append(Remote(path, members))
    return remotes


_IWSLT = Source(
    name="iwslt",
    title="IWSLT 2017, training part",
    folder="iwslt2017",
    address=f"{_HUB}IWSLT/iwslt2017/resolve/main/",
    page=f"{_HUB}IWSLT/iwslt2017",
    license="CC BY-NC-ND 4.0",
    citation="Cettolo et al. 2017, Overview of the IWSLT 2017 Evaluation Campaign, IWSLT",
    by="pairs",
    known=(),
    default=("de-en",),
    remotes=_iwslt,
)

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (_MASSIVE, TATOEBA, ALMA, WMT23, UNER, UNER_AYA, _FLORES, _IWSLT)
}
