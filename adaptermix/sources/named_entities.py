"""Sources of Universal NER: the treebanks' repositories, and the Aya collection's prompts."""

from collections.abc import Sequence

from adaptermix.sources.source import Member, Remote, Source

_HUB = "https://huggingface.co/datasets/"
_GITHUB = "https://raw.githubusercontent.com/"


# By language: the stem of the file names, and the repository with its commit.
_TREEBANKS = {
    "da": ("da_ddt", "UNER_Danish-DDT/983c4cdc09f8ece6069d2b692b60dc4b3649ec6e"),
    "en": ("en_ewt", "UNER_English-EWT/8ed072de2fd24022cc62458997fe96a8fe191ea4"),
    "hr": ("hr_set", "UNER_Croatian-SET/20dcb2ef6b6bf9d5e03605a74c4d87215a1574c1"),
    "pt": ("pt_bosque", "UNER_Portuguese-Bosque/f2c2ad67aed900385fbe5d655af41f439c9b3333"),
    "sk": ("sk_snk", "UNER_Slovak-SNK/886e7c6d7e066e23246af5070d115a036a465c6d"),
    "sr": ("sr_set", "UNER_Serbian-SET/0d9685f001c10895572d844ef789c53dade0e265"),
    "sv": ("sv_talbanken", "UNER_Swedish-Talbanken/dbb692085267da83a35d1e1d2c111671b3c7c46b"),
    "zh": ("zh_gsdsimp", "UNER_Chinese-GSDSIMP/1f0307599dece7b83f4cba90ce9b63ef37a7b162"),
}
_IDS = {  # git object ids
    "da_ddt.train": "462257517e822ab3621ba3225ed1aaa66b1408df",
    "da_ddt.dev": "af60507897843451435a0cd0b9d5313d04d2f7ce",
    "da_ddt.test": "eac840a2cad35bd68f8d6c40119424cb19e4b7fa",
    "en_ewt.train": "b2423d72f37f2226e56cbe750da76f820e6c36a9",
    "en_ewt.dev": "ba19f8b2c24da16a9131408b5f07e3a3f0bdc5b8",
    "en_ewt.test": "45c5da3de8d9908dfff8d1883837ae4c42d48424",
    "hr_set.train": "8990179123f7422cb037437eee3e79c568c7cf81",
    "hr_set.dev": "81e7943b49053f3b853508fb1fb7860ebd5311c0",
    "hr_set.test": "89fe2dcfb31fbb9274ffa718b25cba1c7c6a2d8b",
    "pt_bosque.train": "8092ca64ae8b0a89cad7c0f3f47852d8a48692f3",
    "pt_bosque.dev": "c45ec24ccaaef7ac52abcda4b2f72c36019d7981",
    "pt_bosque.test": "63d219763cde41a389a965f33eb9c7d5792e1d1f",
    "sk_snk.train": "9e2726c88c238f94597dfe8b781062aca15bec1c",
    "sk_snk.dev": "428c097477b06cf73c9d8456818c61f5f8386bc1",
    "sk_snk.test": "4548a51e0659806dc3a7842a7e98d1c332f0d77d",
    "sr_set.train": "d2c4e987e081643502db6a2ad42d84012fb4df49",
    "sr_set.dev": "f3fd9d680b7ad7c3f78a70744a2127c2324d5a14",
    "sr_set.test": "1d95b3e7666ec2342d06ae9fa81e841587467905",
    "sv_talbanken.train": "4ee74f493e06a790df56641b9e0c496282e0782a",
    "sv_talbanken.dev": "f75ff2331e964d695f469384169b68bb6f32019d",
    "sv_talbanken.test": "fed27118efe99d29773c8556b2bdb58713a3c16d",
    "zh_gsdsimp.train": "8c4046ec942087afeafe1e042dbaeb6cbfce15e7",
    "zh_gsdsimp.dev": "3ef7095d3d10328b7dadbcccf521a42b17864175",
    "zh_gsdsimp.test": "58e9c3a04c02707beb8b9613b6f012cf649fd747",
}


def _uner(langs: Sequence[str]) -> list[Remote]:
    remotes = []
    for stem, repository in (_TREEBANKS[lang] for lang in langs):
        for part in ("train", "dev", "test"):
            name = f"{stem}-ud-{part}.iob2"
            digest = f"git:{_IDS[f'{stem}.{part}']}"
            remotes.append(Remote(f"{repository}/{name}", (Member(name),), digest=digest))
    return remotes


UNER = Source(
    name="uner",
    title="Universal NER",
    folder="uner",
    address=f"{_GITHUB}UniversalNER/",
    page="https://www.universalner.org",
    license="CC BY-SA 4.0",
    citation="Mayhew et al. 2024, Universal NER: A Gold-Standard Multilingual Named Entity "
    "Recognition Benchmark, NAACL",
    by="langs",
    known=tuple(_TREEBANKS),
    default=tuple(_TREEBANKS),
    remotes=_uner,
    notes=("the paper uses the same sentences with prompts, from the Aya collection: uner-aya",),
)


def _aya(parts: Sequence[str]) -> list[Remote]:
    """Return all three files, each of which contains every language."""
    names = (f"{part}-00000-of-00001.parquet" for part in ("train", "validation", "test"))
    return [Remote(f"templated_uner_llm/{name}", (Member(name),)) for name in names]


UNER_AYA = Source(
    name="uner-aya",
    title="Universal NER with prompts, from the Aya collection",
    folder="uner-aya",
    address=f"{_HUB}CohereForAI/aya_collection/resolve/6f3cc5c8ced962cbd040f0a7a73a0e92f757b469/",
    page=f"{_HUB}CohereForAI/aya_collection",
    license="Apache-2.0 (the collection), CC BY-SA 4.0 (Universal NER)",
    citation="Singh et al. 2024, Aya Dataset: An Open-Access Collection for Multilingual "
    "Instruction Tuning, ACL; Mayhew et al. 2024, Universal NER, NAACL",
    by="langs",
    known=("all",),
    default=("all",),
    remotes=_aya,
    notes=(
        "its prompts are written in each language",
        "the files are Parquet; reading them needs adaptermix[parquet] or [eval]",
    ),
)
