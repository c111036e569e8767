"""A Penn Treebank tokenizer for captions that agrees with the one that the published caption scores use.

That one is the PTBTokenizer of Stanford CoreNLP 3.4.1, called by pycocoevalcap with ``-preserveLines`` and
``-lowerCase``; a list of punctuation tokens is dropped afterwards. The tokens decide the score (CIDEr of a plain
``split()`` is off by some tenths), so its habits are kept, the odd ones too: ``!!`` and ``-lrb-`` stay (the list
holds ``!`` and, in capitals, ``-LRB-``), ``man,red-haired`` is one token, a fraction or a telephone number keeps its
inner space as a no-break space.

It works as a scanner: at each position every rule is tried; the one that matches most text, the context that it
asks for included, wins; of equals the first. The rules were fitted to what the Java program answers.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from vlkit.errors import DataError
from vlkit.metrics import ptb_tables as tables
from vlkit.metrics.base import check_text, shown

Rewrite = Callable[[str], str]

_SPACE = "\u00a0\u2000-\u200a\u3000 \t\n"
_APOS = r"(?:['’\u0092]|&apos;)"
_APOS_LIKE = r"(?:['’\u0092`‘\u0091‛]|&apos;)"  # also what was meant as one
_ENTITY = "&[aeiouAEIOU](?:acute|grave|uml);"
_L = f"[{tables.LETTERS}]"
_D = f"[{tables.DIGITS}]"
_LD = f"[{tables.LETTERS}{tables.DIGITS}]"
_WORD_START = rf"(?:{_L}|[{tables.MARKS}]|{_ENTITY})"
_RUN = rf"(?:{_WORD_START}(?:{_LD}|[{tables.MARKS}]|{_ENTITY})*)"
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


_STARTERS = _either(f"{w[0]}(?i:{w[1:]})" for w in tables.SENTENCE_STARTERS)
_CAPITALIZED = [f"{w[0].upper()}(?i:{w[1:]})" for w in tables.ABBREVIATIONS_LAST_CAPITALIZED]
_SMALL = [f"(?i:{w[0]}){w[1:]}" for w in tables.ABBREVIATIONS_LAST_SMALL]
_FIRST_SMALL = _either(f"(?i:{w[0]}){w[1:]}" for w in tables.ABBREVIATIONS_FIRST_SMALL)
_LAST = _either([f"(?i:{w})" for w in tables.ABBREVIATIONS_LAST] + _CAPITALIZED + _SMALL)


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
    return tables.REPLACED.get(token, token)


# Pattern (group 1, if there is one, is the token and the rest its context) and what is done with the token.
_RULES: list[tuple[str, Rewrite | None]] = [
    # tags and entities
    (_TAG, _spaces),
    (r"&(?:mdash|ndash|MD);|[\u0096\u0097–—―]", _constant("--")),
    (r"&nbsp;", _constant("")),
    (r"&(?:lt|gt|amp);", lambda token: tables.ENTITIES[token]),
    (r"&(?:HT|TL|UR|LR|QC|QL|QR|odq|cdq|#[0-9]+);", None),
    # words, and the contractions that end them
    *[(rf"(?i:({first}){second})", None) for first, second in tables.SPLIT_WORDS],
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
    (rf"(?i:{_either(word.replace(' ', _APOS) for word in tables.WORDS_WITH_APOSTROPHE)})", None),
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
    (rf"({_LD}+(?:\.{_LD}+)*\.(?i:{_either(tables.FILE_ENDINGS)}))[{_SPACE}.?!,]", None),
    (rf"{_LAST}\.", None),
    (rf"(?:(?i:{_either(tables.ABBREVIATIONS_FIRST)}|[a-z])|{_FIRST_SMALL})\.", None),
    (rf"((?i:{_either(tables.ABBREVIATIONS_BEFORE_NUMBERS)})\.)[{_SPACE}]?\d", None),
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
    (rf"[{tables.SYMBOLS}.\[\](){{}}¼½¾⅓⅔£€¤₠¢\u0080\u2044\u20a4]", _single),
]
# ``\d`` in a rule stands for the digits of the table: Python's own depend on its version.
_COMPILED = [(re.compile(pattern.replace(r"\d", _D)), rewrite) for pattern, rewrite in _RULES]
_SPLIT_WORDS = {a + b for a, b in tables.SPLIT_WORDS}
_PLAIN = re.compile(r"([A-Za-z]+)\s+")


def _scan(text: str) -> Iterator[str]:
    """The tokens of one line, before lower-casing. Characters that no rule knows are dropped."""
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
    """All tokens of one caption, lower-cased, punctuation included.

    Raises:
        DataError: it is no text.
    """
    check_text("ptb", "a caption", caption)
    return [token.lower() for token in _scan(re.sub(r"[\n\r\x0b\x0c\u2028\u2029]", " ", caption))]


def ptb_tokenize(captions: Iterable[str]) -> list[str]:
    """Captions as the caption metrics want them: tokens joined by one space, punctuation dropped.

    A token may hold a no-break space ("5 1/2"). Line breaks count as spaces.

    Raises:
        DataError: they are not texts.
    """
    if isinstance(captions, (str, bytes, Mapping)) or not isinstance(captions, Iterable):
        raise DataError(f"ptb: captions must be a list of texts, got {shown(captions)}.")
    return [" ".join(t for t in ptb_tokens(caption) if t not in tables.PUNCTUATION) for caption in captions]
