"""Languages: codes, names and scripts."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from pathlib import Path
from typing import Any

import regex

from adaptermix.errors import DataError, MissingDataError
from adaptermix.files.text import find_file, has_file

Same = Callable[[str, str], bool]  # whether two names are of one language

# FLORES-200 codes of the paper's languages (its table 9 and appendix C).
FLORES_CODES: dict[str, str] = {
    code.split("=")[0]: code.split("=")[1]
    for code in """
    af=afr_Latn am=amh_Ethi ar=arb_Arab az=azj_Latn bn=ben_Beng cs=ces_Latn cy=cym_Latn da=dan_Latn
    de=deu_Latn el=ell_Grek en=eng_Latn es=spa_Latn fr=fra_Latn he=heb_Hebr hi=hin_Deva hr=hrv_Latn
    hu=hun_Latn hy=hye_Armn id=ind_Latn is=isl_Latn it=ita_Latn ja=jpn_Jpan jv=jav_Latn ka=kat_Geor
    km=khm_Khmr kn=kan_Knda ko=kor_Hang lv=lvs_Latn mn=khk_Cyrl pt=por_Latn ru=rus_Cyrl sk=slk_Latn
    sr=srp_Cyrl sv=swe_Latn sw=swh_Latn th=tha_Thai tl=tgl_Latn tr=tur_Latn uk=ukr_Cyrl ur=urd_Arab
    zh=zho_Hans
    """.split()
}


# Script, region, or variant such as 1996 or vale1252.
_SUBTAG = re.compile(r"[A-Z][a-z]{3}|[A-Z]{2}|\d{3}|(?=[a-z]*\d)[a-z\d]{4,8}")
# Tags that are one language also in lower case. In others, such as fr-ca, what could be the region
# is more likely the second language of a pair: French to Catalan.
_TAGS = {
    tag.lower(): tag
    for tag in """
    zh-CN zh-TW zh-HK zh-MO zh-SG zh-Hans zh-Hant ja-JP ko-KR vi-VN id-ID hi-IN fa-IR he-IL
    en-US en-GB en-AU en-NZ en-IE en-IN es-MX pt-BR de-AT de-CH fr-CH it-CH cs-CZ da-DK el-GR uk-UA
    sr-Latn sr-Cyrl uz-Latn uz-Cyrl
    """.split()
}


def _as_tag(lang: str) -> str:
    """Return a tag such as ``zh-tw`` or ``zh_TW`` as ``zh-TW``, and other texts unchanged."""
    return _TAGS.get(lang.replace("_", "-").lower(), lang)


def _is_subtag(part: str, lang: str) -> bool:
    """Whether a part after a hyphen belongs to the language before it."""
    code = lang.partition("-")[0]
    is_form = code[:1].islower() and _SUBTAG.fullmatch(part) is not None
    return is_form or f"{code}-{part}".lower() in _TAGS


def split_pair(pair: str) -> tuple[str, str]:
    """Return both languages of a pair such as ``cy-en`` or ``zh-Hans-en``, as written.

    Raises:
        DataError: The text is not two languages separated by a hyphen.
    """
    langs: list[str] = []
    for part in pair.split("-"):
        if langs and _is_subtag(part, langs[-1]):
            langs[-1] += f"-{part}"
        else:
            langs.append(part)
    if (
        len(langs) != 2
        or langs[0] == langs[1]
        or not all(re.fullmatch(r"\w[\w -]*", lang) for lang in langs)
    ):
        raise DataError(f"'{pair}' is not a language pair", hint="write pairs as cy-en,sw-en")
    return langs[0], langs[1]


def sides_of(text: str) -> tuple[str, ...]:
    """Return both languages of a pair, or nothing if the text is not a pair."""
    try:
        return split_pair(text)
    except DataError:
        return ()


def target_of(lang: str) -> str:
    """Return the language of the answers: the second one of a pair, or the language itself."""
    code, *parts = lang.split("-")
    if all(_is_subtag(part, code) for part in parts):
        return lang
    try:
        return split_pair(lang)[1]
    except DataError:
        return lang.rpartition("-")[2]


# FLORES-200's three-letter codes of other languages; the script comes from the file's name.
THREE_LETTERS: dict[str, str] = {
    code.split("=")[0]: code.split("=")[1]
    for code in """
    ak=aka as=asm ay=ayr ba=bak be=bel bg=bul bm=bam bo=bod bs=bos ca=cat dz=dzo ee=ewe eo=epo
    et=est eu=eus fa=pes fi=fin fj=fij fo=fao ga=gle gd=gla gl=glg gn=grn gu=guj ha=hau ht=hat
    ig=ibo ki=kik kk=kaz ko=kor ku=kmr ky=kir lb=ltz lg=lug li=lim ln=lin lo=lao lt=lit mg=plt
    mi=mri mk=mkd ml=mal mr=mar ms=zsm mt=mlt my=mya nb=nob ne=npi nl=nld nn=nno no=nob ny=nya
    oc=oci om=gaz or=ory pa=pan pl=pol ps=pbt qu=quy rn=run ro=ron rw=kin sa=san sc=srd sd=snd
    sg=sag si=sin sl=slv sm=smo sn=sna so=som sq=als ss=ssw st=sot su=sun ta=tam te=tel tg=tgk
    ti=tir tk=tuk tn=tsn ts=tso tt=tat ug=uig uz=uzn vi=vie wo=wol xh=xho yi=ydd yo=yor zu=zul
    """.split()
}


def flores_code(lang: str) -> str:
    """Return the FLORES-200 code of a language, to compare spellings and to name files.

    ``cy``, ``cym`` and ``Welsh`` give ``cym_Latn``; ``zh-TW`` and ``zh-Hant`` give ``zho_Hant``.
    Pairs, unknown languages, and languages whose script is unknown are returned unchanged.
    """
    if target_of(lang) != lang:
        return lang
    code = known_code(lang) or ""
    letters, _, usual = FLORES_CODES.get(code, THREE_LETTERS.get(code, "")).partition("_")
    script = _tags(lang)[0] or usual
    return f"{letters}_{script}" if letters and script else lang


def plain_code(lang: str) -> str:
    """Return the plain code of a language, which names it in its usual script.

    Unknown languages, and languages in another script (``zh-TW``), are returned unchanged.
    """
    code = known_code(lang)
    return code if code is not None and is_one_language(lang, code) else lang


def is_one_language(one: str, other: str) -> bool:
    """Whether two names are equal, or of the same known language.

    A script or a region that both have must be the same. A language without a script has its usual
    one, if that is known.
    """
    code = known_code(one)
    usual = FLORES_CODES.get(code or "", "").partition("_")[2]
    tags = _tags(one), _tags(other)
    scripts = {script or usual for script, _ in tags} - {""}
    regions = {region for _, region in tags} - {""}
    is_same = code is not None and code == known_code(other)
    return one == other or (is_same and len(scripts) < 2 and len(regions) < 2)


def are_same(one: str, other: str) -> bool:
    """Whether two names are of one language (``is_one_language``), or of one pair."""
    if one == other:
        return True
    are_pairs = [target_of(lang) != lang for lang in (one, other)]
    if not any(are_pairs):
        return is_one_language(one, other)
    sides = sides_of(one), sides_of(other)
    return all(are_pairs) and all(sides) and all(map(is_one_language, *sides))


def are_same_text(one: str, other: str) -> bool:
    """Whether two names are of one language in multi-way text, where regions do not differ."""
    return flores_code(one) == flores_code(other) or are_same(one, other)


def members_of(group: Iterable[str], langs: Sequence[str], same: Same = are_same) -> list[str]:
    """Return the languages that a group names, whatever the spelling; an equal name comes first."""
    found: set[str] = set()
    for member in group:
        alike = [lang for lang in langs if same(lang, member)]
        found.update([member] if member in langs else alike)
    return [lang for lang in langs if lang in found]


def notes_on_groups(
    groups: Mapping[str, Iterable[str]], langs: Sequence[str], same: Same = are_same
) -> list[str]:
    """Note the members of groups that are not in a run, which may be typing errors.

    Settings may serve several runs, so groups without any member in the run share a note.
    """
    notes, unused = [], []
    for name, members in groups.items():
        found = {member: members_of([member], langs, same) for member in members}
        absent = [member for member, here in found.items() if not here]
        if len(absent) == len(found):
            unused.append(name)
        elif absent and len({lang for here in found.values() for lang in here}) < len(langs):
            notes.append(f"group {name}: not in this run: {' '.join(absent)}")
    if unused:
        notes.append(f"groups without a member in this run: {', '.join(unused)}")
    return notes


_NAME = re.compile(r"[A-Za-z]{2,3}([-_][A-Z][a-z]{3})?([-_]([A-Z]{2}|\d{3}))?")


def is_language_name(text: str) -> bool:
    """Whether a text can name a language: as a code, or by its English name."""
    names = {name.lower() for name in LANGUAGE_NAMES.values()}
    return bool(_NAME.fullmatch(text)) or text.lower() in names


def _tags(lang: str) -> tuple[str, str]:
    """Return script and region of a tag such as ``zh-Hant-TW`` or ``zh_tw``; each may be empty."""
    if lang.strip().lower().replace("_", " ") in _codes():  # an English name, or a code alone
        return "", ""
    tags = re.split("[-_]", lang.strip())[1:]
    script = next((tag.title() for tag in tags if re.fullmatch("[A-Za-z]{4}", tag)), "")
    region = next((tag.upper() for tag in tags if re.fullmatch(r"[A-Za-z]{2}|\d{3}", tag)), "")
    if not script and region in ("TW", "HK", "MO") and known_code(lang) == "zh":
        script = "Hant"
    return script, region


# Unicode scripts of script codes that are not one themselves.
_SCRIPTS = {
    "Hang": ("Hang", "Hani"),
    "Hans": ("Hani",),
    "Hant": ("Hani",),
    "Jpan": ("Hani", "Hira", "Kana"),
    "Kore": ("Hang", "Hani"),
}
_ALSO = {"jv": ("Java",), "sr": ("Latn",)}  # languages with a second script


def is_in_wrong_script(text: str, lang: str) -> bool:
    """Whether most letters are not in the script that the language's name has, or its usual one.

    False for unknown languages and scripts.
    """
    code = known_code(lang) or ""
    if code not in FLORES_CODES:
        return False
    script = _tags(lang)[0]
    usual = FLORES_CODES[code].rpartition("_")[2]
    letters = _letters_of((script,) if script else (usual, *_ALSO.get(code, ())))
    return letters is not None and 2 * len(letters.findall(text)) < sum(map(str.isalpha, text))


@cache
def _letters_of(codes: tuple[str, ...]) -> Any:
    """Return the pattern of a letter in one of the scripts, or None if one is unknown."""
    scripts = [script for code in codes for script in _SCRIPTS.get(code, (code,))]
    # Script extensions: a mark such as the Japanese long vowel belongs to several scripts.
    own = "".join(rf"\p{{scx={script}}}" for script in scripts)
    try:
        return regex.compile(rf"(?V1)[\p{{L}}&&[{own}]]")
    except regex.error:
        return None


# Names of languages in prompts. Those in the paper's released code are the same as there.
LANGUAGE_NAMES: dict[str, str] = {
    entry.partition("=")[0]: entry.partition("=")[2].replace("_", " ")
    for entry in """
    af=Afrikaans am=Amharic an=Aragonese ar=modern_standard_Arabic as=Assamese ast=Asturian
    av=Avaric ay=Aymara az=North_Azerbaijani ba=Bashkir be=Belarusian bg=Bulgarian bho=Bhojpuri
    bm=Bambara bn=Bengali bo=Tibetan br=Breton bs=Bosnian ca=Catalan ce=Chechen ceb=Cebuano
    ckb=Central_Kurdish cs=Czech cv=Chuvash cy=Welsh da=Danish de=German dsb=Lower_Sorbian
    dv=Dhivehi dz=Dzongkha ee=Ewe el=Greek en=English eo=Esperanto es=Spanish et=Estonian
    eu=Basque fa=Farsi_(Persian) ff=Fula fi=Finnish fj=Fijian fo=Faroese fr=French
    fy=West_Frisian ga=Irish gd=Scottish_Gaelic gl=Galician gn=Guarani gu=Gujarati ha=Hausa
    he=Hebrew hi=Hindi hr=Croatian hsb=Upper_Sorbian ht=Haitian_Creole hu=Hungarian hy=Armenian
    id=Indonesian ig=Igbo ilo=Ilocano is=Icelandic it=Italian iu=Inuktitut ja=Japanese
    jv=Javanese ka=Georgian kab=Kabyle ki=Kikuyu kk=Kazakh kl=Greenlandic km=Khmer kn=Kannada
    ko=Korean ks=Kashmiri ku=Kurdish ky=Kyrgyz la=Latin lb=Luxembourgish lg=Ganda liv=Livonian
    ln=Lingala lo=Lao lt=Lithuanian lv=Latvian mai=Maithili mas=Maasai mg=Malagasy mi=Maori
    mk=Macedonian ml=Malayalam mn=Mongolian mni=Manipuri mr=Marathi ms=Malay mt=Maltese
    my=Burmese nb=Norwegian_Bokmål ne=Nepali nl=Dutch nn=Norwegian_Nynorsk no=Norwegian
    nso=Northern_Sotho ny=Nyanja oc=Occitan om=Oromo or=Odia pa=Punjabi pl=Polish ps=Pashto
    pt=Portuguese qu=Quechua rm=Romansh rn=Rundi ro=Romanian ru=Russian rw=Kinyarwanda
    sa=Sanskrit sah=Sakha sat=Santali sc=Sardinian sd=Sindhi se=Northern_Sami sg=Sango
    si=Sinhala sk=Slovak sl=Slovenian sm=Samoan sn=Shona so=Somali sq=Albanian sr=Serbian
    ss=Swati st=Southern_Sotho su=Sundanese sv=Swedish sw=Swahili ta=Tamil te=Telugu tg=Tajik
    th=Thai ti=Tigrinya tk=Turkmen tl=Tagalog tn=Tswana to=Tongan tr=Turkish ts=Tsonga tt=Tatar
    tw=Twi ug=Uyghur uk=Ukrainian ur=Urdu uz=Uzbek ve=Venda vi=Vietnamese wo=Wolof xh=Xhosa
    yi=Yiddish yo=Yoruba yue=Cantonese zh=mandarin_Chinese zu=Zulu
    """.split()
}
# Their other codes: ISO 639-2 and 639-3 codes, codes of languages that count as one here, and
# deprecated codes.
_OTHER_CODES: dict[str, str] = {
    code: entry.partition("=")[0]
    for entry in """
    ar=ara az=aze bo=tib cs=cze cy=wel de=ger el=gre es=spn et=ekk eu=baq fa=fas,per fr=fre he=iw
    hr=scr hy=arm id=in is=ice jv=jw ka=geo lv=lav mg=mlg mi=mao mk=mac mn=mon ms=msa,may my=bur
    nb=nob ne=nep nl=dut nn=nno no=nor om=orm or=ori ps=pus ro=rum,mo sk=slo sq=sqi,alb sr=scc
    sw=swa tl=fil uz=uzb yi=ji zh=cmn,chi
    """.split()
    for code in entry.partition("=")[2].split(",")
}
_OTHER_NAMES = {
    **{"arabic": "ar", "azerbaijani": "az", "chinese": "zh", "mandarin": "zh", "farsi": "fa"},
    **{"persian": "fa", "bokmål": "nb", "bokmal": "nb", "norwegian bokmal": "nb", "nynorsk": "nn"},
    **{"filipino": "tl", "kiswahili": "sw", "castilian": "es", "flemish": "nl"},
}
# Country codes that are often mistaken for language codes, unless they are language codes too.
_COUNTRIES = {
    **{"cz": "cs", "jp": "ja", "dk": "da", "gr": "el", "ua": "uk", "cn": "zh", "ir": "fa"},
    **{"vn": "vi", "il": "he", "us": "en", "gb": "en", "kr": "ko"},
}


@cache
def _codes() -> dict[str, str]:
    """Return the plain codes of languages, by all their lower-case names and codes."""
    names = {name.lower(): code for code, name in LANGUAGE_NAMES.items()}
    letters = {flores.partition("_")[0]: code for code, flores in FLORES_CODES.items()}
    return (
        names
        | _OTHER_NAMES
        | {three: code for code, three in THREE_LETTERS.items()}
        | letters
        | _OTHER_CODES
        | {code: code for code in LANGUAGE_NAMES}
    )


def known_code(lang: str) -> str | None:
    """Return the plain code of a language as ``language_code`` does, or None if it is unknown."""
    said = lang.strip().lower()
    by_name = _codes().get(said.replace("_", " "))
    return by_name or _codes().get(re.split("[-_]", said)[0])


def language_code(lang: str) -> str:
    """Return the plain code of a language.

    It is ``zh`` for ``zh``, ``zh-TW``, ``zh_CN``, ``zho_Hans``, ``zh-Hans``, ``cmn`` and
    ``Chinese``.

    Raises:
        DataError: The language is unknown.
    """
    code = known_code(lang)
    if code not in LANGUAGE_NAMES:
        hint = hint_of_language(lang, LANGUAGE_NAMES, "use one of ")
        raise DataError(f"unknown language '{lang}'", hint=hint)
    return code


def hint_of_language(lang: str, there: Iterable[str], what: str = "it has ") -> str:
    """Return a hint for an unknown language or pair: the closest available one, and all of them.

    Args:
        lang: The language or pair.
        there: The available ones.
        what: Text before the list.
    """
    listed = list(dict.fromkeys(there))
    near = (_nearest if target_of(lang) == lang else _nearest_pair)(lang, listed)
    return (f"did you mean {near}? " if near else "") + what + " ".join(listed)


def _nearest(lang: str, there: Sequence[str]) -> str | None:
    code = known_code(lang) or _COUNTRIES.get(lang.lower())
    if code:
        return next((other for other in there if known_code(other) == code), None)
    spelled = {other.lower(): other for other in there}
    spelled |= {LANGUAGE_NAMES[c].lower(): o for o in there if (c := known_code(o) or "")}
    near = get_close_matches(lang.lower(), [name for name in spelled if len(name) > 2], 1, 0.7)
    return spelled[near[0]] if near else None


def _nearest_pair(pair: str, there: Sequence[str]) -> str | None:
    """Return the pair whose two sides are closest, in either order."""
    try:
        wanted = split_pair(pair)
        pairs = {split_pair(other): other for other in there}
    except DataError:
        return None
    sides = list(dict.fromkeys(side for found in pairs for side in found))
    source, target = (_nearest(side, sides) or "" for side in wanted)
    return pairs.get((source, target)) or pairs.get((target, source))


def find_language(folder: Path, patterns: Sequence[str], lang: str, what: str, named: str) -> Path:
    """Find the one file of a language or a pair, as ``find_file`` does.

    Args:
        folder: Folder to search.
        patterns: Possible file names.
        lang: The language or pair.
        what: Description of the file, for messages.
        named: Regular expression of such file names, with the language as its first group.

    Raises:
        DataError: There is no such file, with a hint of the available ones, or several.
    """
    if folder.is_dir() and not has_file(folder, patterns):
        files = (path.name for below in ("*", "*/*", "*/*/*") for path in folder.glob(below))
        there = sorted({found[1] for name in files if (found := re.fullmatch(named, name))})
        if there:
            raise MissingDataError(f"{folder}: no {what}", hint=hint_of_language(lang, there))
    return find_file(folder, patterns, what)
