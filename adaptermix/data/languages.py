"""Languages: codes, names and scripts."""

from functools import cache
from typing import Any

import regex

from adaptermix.errors import DataError

# FLORES-200 codes of the languages of the paper (its table 9 and appendix C).
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


def split_pair(pair: str) -> tuple[str, str]:
    """Return both language codes of a pair such as ``cy-en``.

    Raises:
        DataError: Not two codes with a dash between them.
    """
    codes = pair.split("-")
    if len(codes) != 2 or not all(code.isalnum() for code in codes) or codes[0] == codes[1]:
        raise DataError(f"'{pair}' is not a language pair", hint="write pairs as cy-en,sw-en")
    return codes[0], codes[1]


# FLORES-200's three letters for other two-letter codes; the file that is there has the script.
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
    """Return the FLORES-200 code of a language, by which two spellings are compared.

    ``cy`` and ``cym`` give ``cym_Latn``; what is not among the paper's languages stays as it is.
    """
    by_letters = {code.partition("_")[0]: code for code in FLORES_CODES.values()}
    return FLORES_CODES.get(lang) or by_letters.get(lang, lang)


# Scripts of letters where they are not the one that the FLORES-200 code names.
_SCRIPTS = {
    "Hang": ("Hang", "Hani"),
    "Hans": ("Hani",),
    "Jpan": ("Hani", "Hira", "Kana"),
}
_ALSO = {"sr": ("Latn",)}  # written in two scripts


def is_in_wrong_script(text: str, lang: str) -> bool:
    """Whether most letters are not of the language's script; False for languages not known."""
    if lang not in FLORES_CODES:
        return False
    return 2 * len(_own_letters(lang).findall(text)) < sum(map(str.isalpha, text))


@cache
def _own_letters(lang: str) -> Any:
    """Return the pattern of a letter that the language is written with."""
    code = FLORES_CODES[lang].rpartition("_")[2]
    scripts = (*_SCRIPTS.get(code, (code,)), *_ALSO.get(lang, ()))
    # Extensions: a mark of several scripts, such as the Japanese long vowel, is of each.
    own = "".join(rf"\p{{scx={script}}}" for script in scripts)
    return regex.compile(rf"(?V1)[\p{{L}}&&[{own}]]")


# Languages by their names in prompts; those the paper's released code names are named as there.
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
_OTHER_CODES = {"cmn": "zh", "fil": "tl", "iw": "he", "nno": "nn", "nob": "nb"}


def language_code(lang: str) -> str:
    """Return the plain code of a language: ``zh`` for ``zh``, ``zh-TW``, ``zh_CN``, ``zho_Hans``.

    Raises:
        DataError: No known language.
    """
    code = lang.replace("_", "-").split("-")[0].lower()
    by_flores = {flores.split("_")[0]: code for code, flores in FLORES_CODES.items()}
    code = (by_flores | _OTHER_CODES).get(code, code)
    if code not in LANGUAGE_NAMES:
        raise DataError(
            f"unknown language '{lang}'", hint="it is one of " + " ".join(LANGUAGE_NAMES)
        )
    return code
