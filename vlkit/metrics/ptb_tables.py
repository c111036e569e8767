"""What the PTB tokenizer knows by heart: words, characters and what becomes of them. For ``ptb.py`` alone."""

from __future__ import annotations

_words = str.split

# Tokens that pycocoevalcap drops after tokenisation; the lower-cased ``-lrb-`` and ``!!`` are not among them.
PUNCTUATION = frozenset(_words("'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;"))

# Abbreviations that keep their period: LAST may end a sentence, FIRST stand before a name. Without an ending any
# case will do; CAPITALISED ones need a capital (small, they are words), SMALL ones small letters after the first.
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
ABBREVIATIONS_LAST_CAPITALISED = _words("ark az del ill la mass miss ore pa tex wash")
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
# Characters that continue a word without being letters (the same form).
MARKS = (
    r"\u02c2-\u02c5\u02d2-\u02df\u02e5-\u02eb\u02ed\u02ef-\u036f\u0375\u0384\u0385\u03f6\u0483-\u0487"
    r"\u055a-\u055f\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0615-\u061a\u064b-\u065e\u0670"
    r"\u06d6-\u06e4\u06e7-\u06ed\u06fd\u06fe\u070f\u0711\u0730-\u074c\u07a6-\u07b0\u07eb-\u07f3"
)
# Numerals that Python counts as letters and the tokenizer does not (the same form).
NUMERALS = (
    r"\u00b2\u00b3\u00b9\u00bc-\u00be\u2070\u2074-\u2079\u2080-\u2089\u2150-\u218b\u2460-\u249b"
    r"\u24ea-\u24ff\u2776-\u2793\U00010000-\U0010ffff"
)
