"""Sources of translations: ALMA's training data, and WMT 23 tests as the paper's authors use."""

from collections.abc import Sequence

from adaptermix.sources.source import Member, Remote, Source

_HUB = "https://huggingface.co/datasets/"
_GITHUB = "https://raw.githubusercontent.com/"

# The repository has training and dev data of each pair, and WMT's test of each direction.
_ALMA_IDS = {
    "cs-en.train": "0dfef5be86ed4c2e2b32e371a09e391b34d381dd",
    "cs-en.valid": "6fc28f5931c45555b762afb615a5289934bb300f",
    "cs-en.test": "3bf8463a45ff94a47d4ac8aafb84c7e08fe6e56d",
    "en-cs.test": "95a9065ac55768e38eded056058d6ffa790dc3f6",
    "de-en.train": "2d0db7e2e2d85af96843a4ba1ae1dfd5bfe05ae7",
    "de-en.valid": "26465fc27134f5cf4d528637e3c8ca8c5c36d67f",
    "de-en.test": "8c69c9ef8c3e90b8e1eabf1ce1af4bb99874e9b9",
    "en-de.test": "2b68a519ba7c163b621fbf051ba638c6c60cb770",
    "is-en.train": "22fd112902266835403648dec978efd66196495a",
    "is-en.test": "b98cc056f8aba6dea1c039399d5dfcf062f1635a",
    "en-is.test": "561a0b71f766b1888b1f4499433dd68971b95745",
    "ru-en.train": "ee5cc2687faaebe1b8ad5186ebdd88f91f02682f",
    "ru-en.valid": "3caaaca3c1fe2ccd754230140bc889d8f2ad66a1",
    "ru-en.test": "d27fffd904e8ab7685e542b0166699c868299a9a",
    "en-ru.test": "ee9506f207739f459cdea876b5ba064fe048ce80",
    "zh-en.train": "6ea11ec574566203760f6552ff2a21193b1c4054",
    "zh-en.valid": "bc1cacd730421ccd25a189afe132dcc5e1271af3",
    "zh-en.test": "e70fa0829bd17993a181895496b0c60c5c374bb1",
    "en-zh.test": "7cad94cc13a40eb44f4464b8a9c2f998d5e27cbe",
}


def _alma(pairs: Sequence[str]) -> list[Remote]:
    remotes = []
    for name, object_id in _ALMA_IDS.items():
        pair, part = name.split(".")
        swapped = "-".join(reversed(pair.split("-")))
        if pair in pairs or swapped in pairs:
            folder = "".join(sorted(pair.split("-"), key="en".__eq__))
            path = f"human_written_data/{folder}/{part}.{pair}.json"
            remotes.append(Remote(path, (Member(f"{name}.json"),), digest=f"git:{object_id}"))
    return remotes


ALMA = Source(
    name="alma",
    title="ALMA's human-written parallel data, with WMT's tests of 2022 (Icelandic: 2021)",
    folder="alma",
    address=f"{_GITHUB}fe1ixxu/ALMA/10360c33dc875c747315dcf0a5be0d48472c7a4c/",
    page="https://github.com/fe1ixxu/ALMA",
    license="MIT (the repository); WMT news data for research, FLORES-200 CC BY-SA 4.0",
    citation="Xu et al. 2024, A Paradigm Shift in Machine Translation: Boosting Translation "
    "Performance of Large Language Models, ICLR",
    by="pairs",
    known=("cs-en", "de-en", "is-en", "ru-en", "zh-en"),
    default=("cs-en", "de-en", "is-en", "ru-en", "zh-en"),
    remotes=_alma,
    notes=(
        "the training files contain all sentences of FLORES-200 dev and devtest, so "
        "training on them inflates retrieval on FLORES",
        "is-en has no dev data: at most 1,000 rows of its training file are held out",
    ),
)

_WMT23_PAIRS = tuple(
    """
    cs-en de-en he-en is-en ja-en ru-en uk-en zh-en en-cs en-de en-he en-is en-ja en-ru en-uk en-zh
    """.split()
)


def _wmt23(pairs: Sequence[str]) -> list[Remote]:
    """Return the directions' files; cs-en is en-cs reversed, as in the authors' code."""
    members: dict[str, tuple[Member, ...]] = {}
    for pair in pairs:
        suffix = "-88c4a5c266ea101b" if pair in ("cs-en", "en-cs") else ""
        config = "en-cs" if pair == "cs-en" else pair
        path = f"{config}/test-00000-of-00001{suffix}.parquet"
        members[path] = (*members.get(path, ()), Member(f"{pair}.test.parquet"))
    return [Remote(path, wanted) for path, wanted in members.items()]


WMT23 = Source(
    name="wmt23",
    title="WMT 23 test sets as the paper's authors read them",
    folder="wmt",
    address=f"{_HUB}haoranxu/WMT23-Test/resolve/19c6f6f18f37bc2bd58306a2b20c93bcbaa4e75a/",
    page=f"{_HUB}haoranxu/WMT23-Test",
    license="none stated; WMT shared-task data is released for research",
    citation="Kocmi et al. 2023, Findings of the 2023 Conference on Machine Translation (WMT23): "
    "LLMs Are Here but Not Quite There Yet, WMT",
    by="pairs",
    known=_WMT23_PAIRS,
    default=_WMT23_PAIRS,
    remotes=_wmt23,
    notes=(
        "cs-en is en-cs reversed, as in the authors' code; WMT 23 has no cs-en",
        "the files are Parquet; reading them needs adaptermix[parquet] or [eval]",
    ),
)
