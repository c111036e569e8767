"""Penn Treebank tokenizer for captions; gives the tokens that published caption scores are computed from.

It reproduces the PTBTokenizer of Stanford CoreNLP 3.4.1 as pycocoevalcap calls it (``-preserveLines -lowerCase``, then
a list of punctuation tokens is dropped). The tokens decide the score (CIDEr of a plain ``split()`` is off by some
tenths), so odd cases are kept too: ``!!`` and ``-lrb-`` stay (the list has ``!`` and, in capitals, ``-LRB-``),
``man,red-haired`` is one token, a fraction or a telephone number keeps its inner space as a no-break space.

At each position of the scanner every rule is tried; the rule that matches the most text, required context included,
wins; of equal ones the first. The rules were fitted to the output of the Java program.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from vlkit.errors import DataError
from vlkit.metrics.base import check_text, shown

Rewrite = Callable[[str], str]

_words = str.split

# Tokens that pycocoevalcap drops after tokenization; the lower-cased ``-lrb-`` and ``!!`` are not among them.
PUNCTUATION = frozenset(_words("'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;"))

# Abbreviations that keep their period: LAST may end a sentence, FIRST stand before a name. Without an ending any
# case matches; CAPITALIZED ones need a capital (small, they are words), SMALL ones small letters after the first.
ABBREVIATIONS_LAST = _words("""
    al ala apr ariz assn aug bhd bldg blvd bros calif co colo conn corp cos ct dak dec esq est etc ext feb
    fla fri ga inc ind intl jan jr jul jun kan kans ky ltd mar md mich minn mo mon mont neb nev nov oct okla
    penn ph[.]d plc rd rt sep sept seq sq sr sys tel tenn thu thurs tue tues univ va vt wed wis wisc wyo
""")
ABBREVIATIONS_FIRST = _words("""
    adj adm adv alex assoc asst atty attys ave brig capt cf cie cmdr col comdr cpl dept det dr drs elec ens
    ft gen gov govs hon insp invt jos lieut lt maj messrs mlle mme mr mrs ms msgr mt natl pfc ph pres prof
    profs pvt rep reps rev sen sens sfc sgt spc st ste supt supts treas vs wm
""")
ABBREVIATIONS_LAST_CAPITALIZED = _words("ark az del ill la mass miss ore pa tex wash")
ABBREVIATIONS_LAST_SMALL = _words("ppte pptes ppty pptys pte ptes pty ptys")
ABBREVIATIONS_FIRST_SMALL = _words("mfg mtg")
ABBREVIATIONS_BEFORE_NUMBERS = _words("art ca fig figs no nos op pp prop")

# A single letter and a period are two tokens in front of these.
SENTENCE_STARTERS = _words("""
    A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Now Once
    One Other Our She Since So Some Such That The Their Then There These They This We What When While Yet You
""")

# One word, two tokens: the first, the second.
SPLIT_WORDS = [("can", "not"), ("gim", "me"), ("gon", "na"), ("got", "ta"), ("lem", "me"), ("wan", "na")]

# Words that keep an apostrophe (here a space) without a rule behind it.
WORDS_WITH_APOSTROPHE = [
    *("c mon", "c est", "cont d[.]", "e er", "ev ry", "li l", "nat l", "o clock", "s mores"),
    *(" cause", " em", " til", " till", " n ", "dunkin ", "ol ", "somethin "),
]

FILE_ENDINGS = _words("""
    bat bmp c cgi class cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl png ppt ps py
    sql tar txt wav x xml zip 7[0-9]
""")

ENTITIES = {"&lt;": "<", "&gt;": ">", "&amp;": "&"}

# What single characters become.
REPLACED = {
    "(": "-lrb-",
    ")": "-rrb-",
    "[": "-lsb-",
    "]": "-rsb-",
    "{": "-lcb-",
    "}": "-rcb-",
    "¼": "1/4",
    "½": "1/2",
    "¾": "3/4",
    "⅓": "1/3",
    "⅔": "2/3",
    "£": "#",
    "€": "$",
    "¤": "$",
    "\u0080": "$",
    "₠": "$",
    "¢": "cents",
}

# Characters that are a token each (the inside of a regular expression's brackets).
SYMBOLS = (
    r"%;=\\\^|~\u00a1\u00a5-\u00a9\u00ac\u00ae-\u00b1\u00b4\u00b6-\u00b8\u00bf\u00d7\u00f7\u037e\u0387"
    r"\u0589\u05be\u05c0\u05c3\u05c6\u05f3\u05f4\u0600-\u0603\u0606-\u060c\u0614\u061b\u061e\u061f\u066a"
    r"\u066d\u06d4\u0700-\u070d\u07f6-\u07f8\u0964\u0965\u0e3f\u0e4f\u1fbd\u2016\u2017\u2020-\u2023"
    r"\u2030-\u2038\u203b\u203e-\u2042\u207a-\u207e\u208a-\u208e\u2100\u2101\u2103-\u2106\u2108"
    r"\u2109\u2114\u2116-\u2118\u211e-\u2123\u2125\u2127\u2129\u212e\u213a\u213b\u2140-\u2144"
    r"\u214a-\u214d\u214f\u2155-\u215e\u2190-\u2bff\u3001\u3002\u3012\u30fb\uff01-\uff0f\uff1a-\uff20"
    r"\uff3b-\uff40\uff5b-\uff65\uffe0\uffe1\uffe5\uffe6+&/:,<>$"
)
# Letters (the same form). The Java program's tables are those of Unicode 6, without planes above the first: what is
# no letter, mark or digit there is dropped. The sets are written out because Python's own change with its version.
LETTERS = (
    r"A-Za-z\u00aa\u00b5\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02c1\u02c6-\u02d1\u02e0-\u02e4\u02ec\u02ee"
    r"\u0370-\u0374\u0376\u0377\u037a-\u037d\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481"
    r"\u048a-\u0527\u0531-\u0556\u0559\u0561-\u0587\u05d0-\u05ea\u05f0-\u05f2\u0620-\u064a\u066e\u066f"
    r"\u0671-\u06d3\u06d5\u06e5\u06e6\u06ee\u06ef\u06fa-\u06fc\u06ff\u0710\u0712-\u072f\u074d-\u07a5\u07b1"
    r"\u07ca-\u07ea\u07f4\u07f5\u07fa\u0800-\u0815\u081a\u0824\u0828\u0840-\u0858\u08a0\u08a2-\u08ac\u0904-\u0939"
    r"\u093d\u0950\u0958-\u0961\u0971-\u0977\u0979-\u097f\u0985-\u098c\u098f\u0990\u0993-\u09a8\u09aa-\u09b0\u09b2"
    r"\u09b6-\u09b9\u09bd\u09ce\u09dc\u09dd\u09df-\u09e1\u09f0\u09f1\u0a05-\u0a0a\u0a0f\u0a10\u0a13-\u0a28"
    r"\u0a2a-\u0a30\u0a32\u0a33\u0a35\u0a36\u0a38\u0a39\u0a59-\u0a5c\u0a5e\u0a72-\u0a74\u0a85-\u0a8d\u0a8f-\u0a91"
    r"\u0a93-\u0aa8\u0aaa-\u0ab0\u0ab2\u0ab3\u0ab5-\u0ab9\u0abd\u0ad0\u0ae0\u0ae1\u0b05-\u0b0c\u0b0f\u0b10"
    r"\u0b13-\u0b28\u0b2a-\u0b30\u0b32\u0b33\u0b35-\u0b39\u0b3d\u0b5c\u0b5d\u0b5f-\u0b61\u0b71\u0b83\u0b85-\u0b8a"
    r"\u0b8e-\u0b90\u0b92-\u0b95\u0b99\u0b9a\u0b9c\u0b9e\u0b9f\u0ba3\u0ba4\u0ba8-\u0baa\u0bae-\u0bb9\u0bd0"
    r"\u0c05-\u0c0c\u0c0e-\u0c10\u0c12-\u0c28\u0c2a-\u0c33\u0c35-\u0c39\u0c3d\u0c58\u0c59\u0c60\u0c61\u0c85-\u0c8c"
    r"\u0c8e-\u0c90\u0c92-\u0ca8\u0caa-\u0cb3\u0cb5-\u0cb9\u0cbd\u0cde\u0ce0\u0ce1\u0cf1\u0cf2\u0d05-\u0d0c"
    r"\u0d0e-\u0d10\u0d12-\u0d3a\u0d3d\u0d4e\u0d60\u0d61\u0d7a-\u0d7f\u0d85-\u0d96\u0d9a-\u0db1\u0db3-\u0dbb\u0dbd"
    r"\u0dc0-\u0dc6\u0e01-\u0e30\u0e32\u0e33\u0e40-\u0e46\u0e81\u0e82\u0e84\u0e87\u0e88\u0e8a\u0e8d\u0e94-\u0e97"
    r"\u0e99-\u0e9f\u0ea1-\u0ea3\u0ea5\u0ea7\u0eaa\u0eab\u0ead-\u0eb0\u0eb2\u0eb3\u0ebd\u0ec0-\u0ec4\u0ec6"
    r"\u0edc-\u0edf\u0f00\u0f40-\u0f47\u0f49-\u0f6c\u0f88-\u0f8c\u1000-\u102a\u103f\u1050-\u1055\u105a-\u105d"
    r"\u1061\u1065\u1066\u106e-\u1070\u1075-\u1081\u108e\u10a0-\u10c5\u10c7\u10cd\u10d0-\u10fa\u10fc-\u1248"
    r"\u124a-\u124d\u1250-\u1256\u1258\u125a-\u125d\u1260-\u1288\u128a-\u128d\u1290-\u12b0\u12b2-\u12b5"
    r"\u12b8-\u12be\u12c0\u12c2-\u12c5\u12c8-\u12d6\u12d8-\u1310\u1312-\u1315\u1318-\u135a\u1380-\u138f"
    r"\u13a0-\u13f4\u1401-\u166c\u166f-\u167f\u1681-\u169a\u16a0-\u16ea\u1700-\u170c\u170e-\u1711\u1720-\u1731"
    r"\u1740-\u1751\u1760-\u176c\u176e-\u1770\u1780-\u17b3\u17d7\u17dc\u1820-\u1877\u1880-\u18a8\u18aa"
    r"\u18b0-\u18f5\u1900-\u191c\u1950-\u196d\u1970-\u1974\u1980-\u19ab\u19c1-\u19c7\u1a00-\u1a16\u1a20-\u1a54"
    r"\u1aa7\u1b05-\u1b33\u1b45-\u1b4b\u1b83-\u1ba0\u1bae\u1baf\u1bba-\u1be5\u1c00-\u1c23\u1c4d-\u1c4f"
    r"\u1c5a-\u1c7d\u1ce9-\u1cec\u1cee-\u1cf1\u1cf5\u1cf6\u1d00-\u1dbf\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45"
    r"\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4"
    r"\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2071\u207f\u2090-\u209c"
    r"\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2139\u213c-\u213f"
    r"\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c2e\u2c30-\u2c5e\u2c60-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\u2d00-\u2d25"
    r"\u2d27\u2d2d\u2d30-\u2d67\u2d6f\u2d80-\u2d96\u2da0-\u2da6\u2da8-\u2dae\u2db0-\u2db6\u2db8-\u2dbe"
    r"\u2dc0-\u2dc6\u2dc8-\u2dce\u2dd0-\u2dd6\u2dd8-\u2dde\u2e2f\u3005\u3006\u3031-\u3035\u303b\u303c\u3041-\u3096"
    r"\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u3105-\u312d\u3131-\u318e\u31a0-\u31ba\u31f0-\u31ff\u3400-\u4db5"
    r"\u4e00-\u9fcc\ua000-\ua48c\ua4d0-\ua4fd\ua500-\ua60c\ua610-\ua61f\ua62a\ua62b\ua640-\ua66e\ua67f-\ua697"
    r"\ua6a0-\ua6e5\ua717-\ua71f\ua722-\ua788\ua78b-\ua78e\ua790-\ua793\ua7a0-\ua7aa\ua7f8-\ua801\ua803-\ua805"
    r"\ua807-\ua80a\ua80c-\ua822\ua840-\ua873\ua882-\ua8b3\ua8f2-\ua8f7\ua8fb\ua90a-\ua925\ua930-\ua946"
    r"\ua960-\ua97c\ua984-\ua9b2\ua9cf\uaa00-\uaa28\uaa40-\uaa42\uaa44-\uaa4b\uaa60-\uaa76\uaa7a\uaa80-\uaaaf"
    r"\uaab1\uaab5\uaab6\uaab9-\uaabd\uaac0\uaac2\uaadb-\uaadd\uaae0-\uaaea\uaaf2-\uaaf4\uab01-\uab06\uab09-\uab0e"
    r"\uab11-\uab16\uab20-\uab26\uab28-\uab2e\uabc0-\uabe2\uac00-\ud7a3\ud7b0-\ud7c6\ud7cb-\ud7fb\uf900-\ufa6d"
    r"\ufa70-\ufad9\ufb00-\ufb06\ufb13-\ufb17\ufb1d\ufb1f-\ufb28\ufb2a-\ufb36\ufb38-\ufb3c\ufb3e\ufb40\ufb41"
    r"\ufb43\ufb44\ufb46-\ufbb1\ufbd3-\ufd3d\ufd50-\ufd8f\ufd92-\ufdc7\ufdf0-\ufdfb\ufe70-\ufe74\ufe76-\ufefc"
    r"\uff21-\uff3a\uff41-\uff5a\uff66-\uffbe\uffc2-\uffc7\uffca-\uffcf\uffd2-\uffd7\uffda-\uffdc"
)
# Decimal digits (the same form).
DIGITS = (
    r"0-9\u0660-\u0669\u06f0-\u06f9\u07c0-\u07c9\u0966-\u096f\u09e6-\u09ef\u0a66-\u0a6f\u0ae6-\u0aef\u0b66-\u0b6f"
    r"\u0be6-\u0bef\u0c66-\u0c6f\u0ce6-\u0cef\u0d66-\u0d6f\u0e50-\u0e59\u0ed0-\u0ed9\u0f20-\u0f29\u1040-\u1049"
    r"\u1090-\u1099\u17e0-\u17e9\u1810-\u1819\u1946-\u194f\u19d0-\u19d9\u1a80-\u1a89\u1a90-\u1a99\u1b50-\u1b59"
    r"\u1bb0-\u1bb9\u1c40-\u1c49\u1c50-\u1c59\ua620-\ua629\ua8d0-\ua8d9\ua900-\ua909\ua9d0-\ua9d9\uaa50-\uaa59"
    r"\uabf0-\uabf9\uff10-\uff19"
)
# Characters that continue a word without being letters: combining marks, vowel signs and a few others (the same form).
MARKS = (
    r"\u02c2-\u02c5\u02d2-\u02df\u02e5-\u02eb\u02ed\u02ef-\u036f\u0375\u0378\u0379\u0384\u0385\u03f6\u0483-\u0487"
    r"\u055a-\u055f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0615-\u061a\u064b-\u065e\u0670\u06d6-\u06e4"
    r"\u06e7-\u06ed\u06fd\u06fe\u070f\u0711\u0730-\u074c\u07a6-\u07b0\u07eb-\u07f3\u0900-\u0903\u093c\u093e-\u094e"
    r"\u0951-\u0955\u0962\u0963\u0981-\u0983\u09bc\u09be-\u09c4\u09c7\u09c8\u09cb-\u09cd\u09d7\u09e2\u09e3"
    r"\u0a01-\u0a03\u0a3c\u0a3e-\u0a4f\u0a81-\u0a83\u0abc\u0abe-\u0acf\u0b82\u0bbe-\u0bc2\u0bc6-\u0bc8"
    r"\u0bca-\u0bcd\u0c01-\u0c03\u0c3e-\u0c56\u0d3e-\u0d44\u0d46-\u0d48\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1"
    r"\u0eb4-\u0ebc\u0ec8-\u0ecd"
)

_SPACE = "\u00a0\u2000-\u200a\u3000 \t\n"
_APOS = r"(?:['’\u0092]|&apos;)"
_APOS_LIKE = r"(?:['’\u0092`‘\u0091‛]|&apos;)"  # also what was meant as one
_ENTITY = "&[aeiouAEIOU](?:acute|grave|uml);"
_L = f"[{LETTERS}]"
_D = f"[{DIGITS}]"
_LD = f"[{LETTERS}{DIGITS}]"
_WORD_START = rf"(?:{_L}|[{MARKS}]|{_ENTITY})"
_RUN = rf"(?:{_WORD_START}(?:{_LD}|[{MARKS}]|{_ENTITY})*)"
_WORD = rf"(?:{_RUN}(?:[.!?]{_RUN})*)"
_PART = rf"(?:(?:[dDoOlL]{_APOS_LIKE}{_LD})?{_LD}+)"
_THING = rf"(?:{_PART}(?:[-_\u058a\u2010\u2011]{_PART})*)"
_ACRONYM = r"(?:[A-Za-z](?:\.[A-Za-z])+)"
_SLASHED = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_NUMBER = r"[-+]?(?:\d*(?:[.,:\u066b\u066c]\d+)+|\d+)"
_FRACTION = r"\d{1,4}\\?[/\u2044]\d{1,4}"
_AREA_CODE = r"(?:\(\d{2,3}\)[ \u00a0]?|(?:\+\+?)?(?:\d{2,4}[- \u00a0])?\d{2,4}[- \u00a0])"
_NOT_URL = rf"{_SPACE}\"<>|(){{}}"
_URL_PATH = rf"[^{_NOT_URL}]+[^{_NOT_URL}.!?,\-]"
_WWW = rf"(?i:www)\.(?:[^{_NOT_URL}.!?,]+\.)+[a-zA-Z]{{2,4}}"
# the range ,-_ is meant: digits and capitals do not occur in such a host
_DOT_COM = rf"(?:[^{_NOT_URL}`'.!?,-_$]+\.)+(?i:com|net|org|edu)"
_TAG_NAME = r"[A-Za-z][A-Za-z0-9_:.\-]*"
_ATTRIBUTE = r"[A-Za-z][A-Za-z0-9_:.\-]*(?: *= *(?:\"[^\"]*\"|'[^']*'))?"
_TAG = rf"<(?:[!?][A-Za-z\-][^>\n]*|{_TAG_NAME}(?: +{_ATTRIBUTE})*\s*/?|/{_TAG_NAME})>"


def _either(words: Iterable[str]) -> str:
    return "(?:" + "|".join(sorted(words, key=len, reverse=True)) + ")"


_STARTERS = _either(f"{w[0]}(?i:{w[1:]})" for w in SENTENCE_STARTERS)
_CAPITALIZED = [f"{w[0].upper()}(?i:{w[1:]})" for w in ABBREVIATIONS_LAST_CAPITALIZED]
_SMALL = [f"(?i:{w[0]}){w[1:]}" for w in ABBREVIATIONS_LAST_SMALL]
_FIRST_SMALL = _either(f"(?i:{w[0]}){w[1:]}" for w in ABBREVIATIONS_FIRST_SMALL)
_LAST = _either([f"(?i:{w})" for w in ABBREVIATIONS_LAST] + _CAPITALIZED + _SMALL)


def _brackets(token: str) -> str:
    return token.replace("(", "-lrb-").replace(")", "-rrb-")


def _spaces(token: str) -> str:
    return _brackets(token).replace(" ", "\u00a0").replace("\t", "\u00a0")


def _ampersand(token: str) -> str:
    return token.replace("&amp;", "&")


def _apostrophe(token: str) -> str:
    return re.sub("[‘‛‹\u0091]", "`", re.sub("[’›\u0092]|&apos;", "'", token))


def _quotes(token: str) -> str:
    for double in ("&quot;", '"', "”", "»", "\u0094"):
        token = token.replace(double, "''")
    for double in ("“", "«", "\u0093"):
        token = token.replace(double, "``")
    return _apostrophe(token)


def _dashes(token: str) -> str:
    return "--" if 3 <= len(token) <= 4 else token


def _constant(token: str) -> Rewrite:
    return lambda _: token


def _single(token: str) -> str:
    return REPLACED.get(token, token)


# Pattern (group 1, if there is one, is the token and the rest its context) and how the token is rewritten.
_RULES: list[tuple[str, Rewrite | None]] = [
    # tags and entities
    (_TAG, _spaces),
    (r"&(?:mdash|ndash|MD);|[\u0096\u0097–—―]", _constant("--")),
    (r"&nbsp;", _constant("")),
    (r"&(?:lt|gt|amp);", lambda token: ENTITIES[token]),
    (r"&(?:HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);", None),
    # words, and the contractions that end them
    *[(rf"(?i:({first}){second})", None) for first, second in SPLIT_WORDS],
    (r"('[tT])(?i:is|was)", None),
    (rf"({_WORD}){_APOS}(?:[msdMSD]|(?i:re|ve|ll))", None),
    (rf"([A-Za-z]*[A-MO-Za-mo-z])[nN]{_APOS_LIKE}[tT]", None),
    (rf"({_LAST}\.)[^{_SPACE}]", None),
    (_WORD, _ampersand),
    # addresses, names, tags of the web
    (rf"(?i:https?)://{_URL_PATH}", None),
    (rf"(?:{_WWW}|{_DOT_COM})(?:/{_URL_PATH})?", None),
    (rf"<?[A-Za-z0-9][^{_NOT_URL}]*@(?:[^{_NOT_URL}.]+\.)*[^{_NOT_URL}.]+>?", None),
    (r"@[A-Za-z_][A-Za-z_0-9]*", None),
    (rf"#{_L}+", None),
    # contractions on their own
    (rf"({_APOS}(?:[msdMSD]|(?i:re|ve|ll)))[^A-Za-z]", _apostrophe),
    (rf"([nN]{_APOS_LIKE}[tT])[^A-Za-z]", _apostrophe),
    # numbers
    (r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}", None),
    (_NUMBER, None),
    (r"[\u207a\u207b\u208a\u208b]?(?:[\u00b2\u00b3\u00b9\u2070\u2074-\u2079]+|[\u2080-\u2089]+)", None),
    (rf"(?:\d{{1,4}}[- \u00a0])?{_FRACTION}", _spaces),
    # words with hyphens, apostrophes, ampersands, slashes
    (_THING, None),
    (rf"[lLdDjJ]{_APOS}", None),
    (rf"[A-HJ-XZn]{_APOS_LIKE}{_L}{{2}}{_L}*|{_APOS}[2-9]0s", None),
    (rf"{_L}+[aeiouyAEIOUY]{_APOS_LIKE}[aeiouA-Z]{_L}*|[oO]{_APOS_LIKE}[oO]", None),
    (rf"(?i:{_either(word.replace(' ', _APOS) for word in WORDS_WITH_APOSTROPHE)})", None),
    (rf"([yY]{_APOS})[A-Za-z]", None),
    (rf"{_APOS}[nN]", None),
    (rf"({_APOS}\d\d)[{_SPACE}]", None),
    (rf"(')[A-Za-z][^{_SPACE}]", None),
    (rf"{_APOS}(?:[msdMSD]|(?i:re|ve|ll))", _apostrophe),
    (r"[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+", _ampersand),
    (r"(?i:s&p-500)", None),
    (rf"{_SLASHED}(?:\\?/{_SLASHED}){{1,2}}", None),
    (rf"[A-Za-z0-9][A-Za-z0-9.,]*(?:-(?:{_ACRONYM}\.|[A-Za-z0-9]+))+", None),
    (r"(?:[cC]\+\+|[cCfF]#)", None),
    # telephone numbers
    (rf"{_AREA_CODE}\d{{3,4}}[- \u00a0]?\d{{3,5}}", _spaces),
    (r"(?:(?:\+\+?)?\d{2,4}\.)?\d{2,4}\.\d{3,4}\.\d{3,5}", None),
    # what keeps its period
    (rf"{_ACRONYM}\.", None),
    (rf"({_LD}+(?:\.{_LD}+)*\.(?i:{_either(FILE_ENDINGS)}))[{_SPACE}.?!,]", None),
    (rf"{_LAST}\.", None),
    (rf"(?:(?i:{_either(ABBREVIATIONS_FIRST)}|[a-z])|{_FIRST_SMALL})\.", None),
    (rf"((?i:{_either(ABBREVIATIONS_BEFORE_NUMBERS)})\.)[{_SPACE}]?\d", None),
    (rf"([A-Za-z])\.[{_SPACE}]+(?:(?:{_STARTERS}|M[rs]\.)[{_SPACE}]|{_TAG})", None),
    (rf"((?:{_WORD}|{_THING})\.)[,;:\u3001]", None),
    # faces
    (r"([<>]?[:;=][-o*']?[()DPdpO\\{@|\[\]])[^A-Za-z0-9]", _brackets),
    (r"[-\^x=~<>']_[-\^x=~<>']|\([-\^x=~<>'][_.]?[-\^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)", _brackets),
    # punctuation and symbols
    (r"\.{3,5}|(?:\.[ \u00a0]){2,4}\.|[\u0085…]", _constant("...")),
    (r"-+", _dashes),
    (r"[!?]+|(?:\\\*)+|\*+|_+|#+|@+|<<|>>", None),
    (r"[A-Z]*\$", None),
    (r"''|'|[`‘-‟\u0091-\u0094‹›«»]{1,2}|\"|&quot;|&apos;", _quotes),
    (rf"[{SYMBOLS}.\[\](){{}}¼½¾⅓⅔£€¤₠¢\u0080\u2044\u20a4]", _single),
]
# ``\d`` in a rule stands for the digits of the table: Python's own depend on its version.
_COMPILED = [(re.compile(pattern.replace(r"\d", _D)), rewrite) for pattern, rewrite in _RULES]
_SPLIT_WORDS = {a + b for a, b in SPLIT_WORDS}
_PLAIN = re.compile(r"([A-Za-z]+)\s+")


def _scan(text: str) -> Iterator[str]:
    """Yield the tokens of one line, before lower-casing. Characters that no rule matches are dropped."""
    text = text.replace("\u00ad", "") + "\n"
    position, end = 0, len(text) - 1
    while position < end:
        plain = _PLAIN.match(text, position)
        if plain and plain[1].lower() not in _SPLIT_WORDS:
            yield plain[1]
            position = plain.end()
            continue
        best, rewrite = None, None
        for pattern, candidate in _COMPILED:
            match = pattern.match(text, position)
            if match and (best is None or match.end() > best.end()):
                best, rewrite = match, candidate
        if best is None:
            position += 1
            continue
        group = best.re.groups
        token = rewrite(best[group]) if rewrite else best[group]
        if token:
            yield token
        position = best.end(group)


def ptb_tokens(caption: str) -> list[str]:
    """Return all tokens of one caption, lower-cased, with punctuation; a DataError if it is not a string."""
    check_text("ptb", "a caption", caption)
    return [token.lower() for token in _scan(re.sub(r"[\n\r\x0b\x0c\u2028\u2029]", " ", caption))]


def ptb_tokenize(captions: Iterable[str]) -> list[str]:
    """Tokenize captions for the caption metrics: tokens joined by one space, punctuation dropped.

    A token may hold a no-break space ("5 1/2"). Line breaks count as spaces.

    Raises:
        DataError: the captions are not strings.
    """
    if isinstance(captions, (str, bytes, Mapping)) or not isinstance(captions, Iterable):
        raise DataError(f"ptb: captions must be a list of texts, got {shown(captions)}.")
    return [" ".join(t for t in ptb_tokens(caption) if t not in PUNCTUATION) for caption in captions]
