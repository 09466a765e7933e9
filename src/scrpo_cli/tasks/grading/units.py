"""Units, and what else stands behind a number without changing it: `15\\text{ cm}^2`, `9.8 m s^{-2}`, `90^\\circ`.

They are dropped, never converted. Words that do change the value (`3 dozen`, `34 hundredths`, `5 squared`) and letters
that may be part of the formula (`2\\mathrm{i}`, `6m`) are no units. Linear in the length of the text.
"""

from __future__ import annotations

import re

_SETTING = (
    r"\\(?:text(?:bf|it|rm|normal|sf|tt|up|md|sc)?|mbox|hbox|mathrm|mathbf|mathit|mathsf|mathtt|boldsymbol|bm"
    r"|operatorname|emph|unit|rm(?=\{))\s*"
)
TEXT = re.compile(_SETTING + r"\{([^{}]*)\}")
_SET_UPRIGHT = re.compile(_SETTING + r"\{((?:[^{}]|\{[^{}]*\})*)\}")  # \mathrm{erg\,s^{-1}}

_NUMBER_WORDS = (
    "zero|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|"
    "seventeen|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|"
    "million|billion|trillion|dozen|score|gross|half|quarter|third|fourth|fifth|sixth|seventh|eighth|ninth|"
    "tenth|eleventh|twelfth|twentieth|hundredth|thousandth|millionth|billionth|halve|couple|myriad"
)
_OTHER_WORDS = (
    "and|or|nor|not|but|to|too|through|over|times|plus|minus|mod|modulo|pi|tau|ln|log|exp|sqrt|sin|cos|tan|cot|"
    "csc|squared|cubed|factorial|twice|thrice|double|doubled|triple|tripled|halved|negative|positive|percent|"
    "than|less|fewer|below|under|short|no|nope|never|false|wrong|incorrect|untrue|invalid|impossible|extraneous|"
    "rejected|away|mille|permille|basis|bps|lakh|crore|googol|kilo|mega|giga|bn|mn|quadrupled|quintupled|"
    "inverted|negated|binary|hex|hexadecimal|octal|factorials|recurring|repeating|reciprocal|inverse|opposite|"
    "minimum|maximum|if|when|where|whenever|because|since|unless|except|either|maybe|perhaps|possibly|wait|"
    "between|at|about|choose|power|root|infinity|nan|is|are|was|equals"
)
_NO_UNIT = re.compile(rf"(?:{_NUMBER_WORDS})s?|{_OTHER_WORDS}", re.IGNORECASE)

_SI = (
    "m|g|s|A|K|mol|cd|Hz|N|Pa|J|W|C|V|F|Ohm|S|Wb|T|H|lm|lx|Bq|Gy|Sv|kat|L|l|eV|Da|bar|cal|pc|yr|rad|sr|Np|Jy|"
    "dyn|dyne|erg|gauss|ohm|statC|esu|emu"
)
_OTHER = (
    "h|hr|hrs|min|sec|deg|rev|rpm|ft|in|yd|mi|lb|lbs|oz|gal|qt|pt|mph|kph|kmh|knots|ppm|ppb|ppt|amu|au|AU|ly|"
    "dB|Oe|atm|Torr|torr|mmHg|psi|Å|Msun|Lsun|Rsun|Mearth|cc|sq|pH|px|pts|USD|EUR|GBP"
)
_COMMON = frozenset(("cm", "mm", "km", "kg", "ml", "ft", "in", "hr", "mi", "lb", "oz"))
_SYMBOL = re.compile(rf"(?:da|[yzafpnµumcdhkMGTPEZY])?(?:{_SI})|{_OTHER}")

# A number and whatever is computed with numbers alone; possessive, as it has only one way to match.
_GROUP = r"\{(?:[^{}A-Za-z\\]|\\(?:sqrt|pi|cdot|times|pm)(?![A-Za-z])|\{[^{}A-Za-z\\]*\})*+\}"
_NEXT = r"(?=\s*(?:[\d.(+-]|\\(?:sqrt|pi|[dt]?frac\s*(?:\d|\{[^{}A-Za-z\\]*\}))))"
_VALUE = re.compile(
    rf"(?:\\[dt]?frac\s*(?:{_GROUP}|\d)\s*(?:{_GROUP}|\d)|\\sqrt\s*(?:\[\d+\])?(?:{_GROUP}|\d)"
    rf"|\\(?:pi|infty|pm)(?![A-Za-z])|\\(?:overline|bar)\s*\{{\d+\}}|\^\s*(?:{_GROUP}|-?\d)"
    rf"|(?:\\times|\\cdot|\\div|\*|x(?=\s*10))(?![A-Za-z]){_NEXT}|(?<=\d)[eE][+-]?\d++(?![A-Za-z])"
    rf"|[\d.,()]|[-+:]{_NEXT}|/(?=\s*[\d(])|_\{{?\d+\}}?|\s++(?=[^\s]))*+"
)
_HAS_VALUE = re.compile(r"\d|\\(?:pi|infty)")

_SPELLINGS = (
    (re.compile(r"\\(?:frac|dfrac|tfrac)\s*\{((?:[^{}]|\{[^{}]*\})*)\}\s*\{((?:[^{}]|\{[^{}]*\})*)\}"), r"\1 / \2"),
    (re.compile(r"\{\\(?:rm|it|bf|sf)\s+((?:[^{}]|\{[^{}]*\})*)\}|\{\}"), r" \1 "),
    (re.compile(r"([MLR])\s*_\s*\{?\s*(?:\\(?:big)?(?:odot)|\\?sun|☉)\s*\}?"), r" \1sun "),
    (re.compile(r"M_\s*\{?\s*\\oplus\s*\}?"), " Mearth "),
    (re.compile(r"\^\s*\{?\s*\\circ\s*\}?|\\degree\b|\\deg\b|°|\\textdegree\b"), " deg "),
    (re.compile(r"\\(?:text)?mu(?![a-z])\s*|[\u00b5\u03bc]\s*"), "µ"),
    (re.compile(r"\\Omega(?![a-z])|[\u03a9\u2126]"), "Ohm"),
    (re.compile(r"\\AA(?![a-zA-Z])|\\mathring\s*\{\s*A\s*\}|\\(?:r|overset\{\\circ\})\s*\{\s*A\s*\}|\u212b"), "Å"),
    (re.compile(r"\\ell(?![a-z])|\u2113"), "L"),
    (re.compile(r"\\(?:(?:cdot|times|bullet|quad)(?![a-z])|[,;:!\s])|[~\u00b7\u22c5*\u00d7]"), " "),
    (re.compile(r"(?<=[A-Za-z])-(?=[A-Za-z])"), " "),
    (re.compile(r"(?<![A-Za-z])([kMGmnµ]) +(?=Ohm(?![a-z]))"), r"\1"),
    (re.compile(r"\s+(?=\^)"), ""),
)
_TOKEN = re.compile(r"\s+|/|\^\s*\{?\(?[+-]?\d+(?:/\d+)?\)?\}?|[²³⁻¹]+|[A-Za-zµÅ]+\.?(?:'s?)?|[(),\[\]]")
_POWER = re.compile(r"\^\s*\{?([1-9])|\b(square|sq)\b|\bcubic\b")
_WRAPPED_TAIL = re.compile(r"(?<=[\w})\]!|])\s*(?:\\[,;: ]|~)*\s*((?:" + TEXT.pattern + r"(?:\s*\^\s*\{?\d\}?)?)+)$")


def without_unit(text: str, symbols: bool = False) -> str:
    """A normalised answer without the unit after it. `symbols`: bare ones too (`5 J`), as in an answer to a number;
    else they may be letters of a formula (`\\frac{1}{2} m v`).
    """
    return text[: _unit_at(text, symbols)].rstrip() if not text.replace(".", "").isdigit() else text


def other_dimension(gold: str, pred: str) -> bool:
    """Whether the units of two answers are different powers: `cm^2` and `cm^3`."""
    powers = {_dimension(gold), _dimension(pred)} - {None}
    return len(powers) > 1


def _dimension(text: str) -> int | None:
    """The power of the unit after an answer, None where none is named; quotients (`N/m^2`, `J/m^3`) have none."""
    if not _POWER.search(text):
        return None
    unit = text[_unit_at(text, True) :]
    if "/" in unit or "frac" in unit or not (power := _POWER.search(unit)):
        return None
    return int(power[1]) if power[1] else 2 if power[2] else 3


def _unit_at(text: str, symbols: bool) -> int:
    """Where the unit after an answer starts; the text's length where there is none."""
    value = _VALUE.match(text)
    end = value.end() if value else 0
    if end == len(text):
        return end
    if _HAS_VALUE.search(text, 0, end):
        while end and text[end - 1] in "([":  # 5 (m/s)
            end -= 1
        whole = sum(map(text[:end].count, "([{")) == sum(map(text[:end].count, ")]}"))
        return end if whole and _is_unit(text[end:], text[end - 1 : end].isspace(), symbols) else len(text)
    wrapped = _WRAPPED_TAIL.search(text)  # of a formula: x+1\text{ cm}; a bare word there may be letters
    return wrapped.start() if wrapped and _is_unit(wrapped[1], True, symbols) and not _letter(wrapped[1]) else len(text)


def _letter(tail: str) -> bool:
    """Upright letters alone, set without a space: `x\\mathrm{d}`."""
    return bool(re.fullmatch(r"(?:\\math\w+\s*\{\w\})+", tail))


def _is_unit(tail: str, spaced: bool, symbols: bool) -> bool:
    """Whether what follows a number is a unit: known symbols, or words. `spaced`: not glued to the number."""
    plain = _SET_UPRIGHT.sub(r" \1 ", tail)
    wrapped = plain != tail or "\\rm" in tail
    for spelling, usual in _SPELLINGS if not (plain.isascii() and plain.replace(" ", "").isalpha()) else ():
        plain = spelling.sub(usual, plain)
    plain, words, at = plain.strip().rstrip("."), 0, 0
    while at < len(plain):
        token = _TOKEN.match(plain, at)
        if not token:
            return False
        at = token.end()
        if not token[0][0].isalpha():
            if token[0][0] in "^²³⁻" and not words:
                return False
            continue
        word = token[0].rstrip(".").removesuffix("'s").rstrip("'")
        if _NO_UNIT.fullmatch(word) or not _reads_as_unit(word, words, wrapped, spaced, symbols):
            return False
        words += 1
    return words > 0


def _reads_as_unit(word: str, before: int, wrapped: bool, spaced: bool, symbols: bool) -> bool:
    """A known symbol or a word. Bare letters that touch the number are factors (`6m`, `2k`), as are i and e."""
    if not (wrapped or symbols or before):
        return word == "deg" or (spaced and (len(word) > 2 or word in _COMMON))
    known = bool(_SYMBOL.fullmatch(word))
    if len(word) == 1:
        return (known or before > 0) and (wrapped or spaced or before > 0) and word not in "ei"
    return known or wrapped or before > 0 or (len(word) > 2 and spaced)
