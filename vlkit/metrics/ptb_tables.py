"""What the PTB tokenizer knows by heart: words, characters and their replacements. Used by ``ptb.py`` alone."""

from __future__ import annotations

# Tokens that pycocoevalcap drops after tokenisation. The lower-cased ``-lrb-`` and runs like ``!!`` are not in it.
PUNCTUATION = frozenset("'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split())

# Abbreviations that keep their period, whatever their case.
ABBREVIATIONS = """
    adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave bhd bldg blvd brig bros calif capt cf cie
    cmdr co col colo comdr conn corp cos cpl ct dak dec dept det dr drs elec ens esq est etc ext feb fla fri ft ga gen
    gov govs hon inc ind insp intl invt jan jos jr jul jun kan kans ky lieut lt ltd maj mar md messrs mich minn mlle
    mme mo mon mont mr mrs ms msgr mt natl neb nev nov oct okla penn pfc ph ph[.]d plc pres prof profs pvt rd rep reps rev rt
    sen sens sep sept seq sfc sgt spc sq sr st ste supt supts sys tel tenn thu thurs treas tue tues univ va vs vt wed
    wis wisc wm wyo
""".split()
# These with a capital only (small, they are words), these with small letters after the first only.
ABBREVIATIONS_CAPITALISED = "ark az del ill la mass miss ore pa tex wash".split()
ABBREVIATIONS_SMALL = "mfg mtg ppte pptes ppty pptys pte ptes pty ptys".split()
ABBREVIATIONS_BEFORE_NUMBERS = "art ca fig figs no nos op pp prop".split()

# A single letter and a period are two tokens in front of these.
SENTENCE_STARTERS = """
    A About According Additionally After An As At But Earlier He Her Here However If In It Last Many More Now Once One
    Other Our She Since So Some Such That The Their Then There These They This We What When While Yet You
""".split()

# One word, two tokens: the first, the second.
SPLIT_WORDS = [("can", "not"), ("gim", "me"), ("gon", "na"), ("got", "ta"), ("lem", "me"), ("wan", "na")]

FILE_ENDINGS = """
    bat bmp c cgi class cpp dll doc docx exe gif gz h htm html jar java jpeg jpg mov mp3 pdf php pl png ppt ps py sql
    tar txt wav x xml zip 7[0-9]
""".split()

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
