r"""One spelling for texts that mean the same: LaTeX dressing, unicode digits and signs, blanks, the final full stop."""
from __future__ import annotations

import re
import unicodedata

from ap.answers.extract import HEDGE
from ap.answers.notations import MARK, in_one_notation
from ap.answers.units import UNITS

FRACTIONS = {char: unicodedata.normalize("NFKC", char).split("\u2044") for char in "½⅓⅔¼¾⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞⅐⅑⅒"}
SUPERSCRIPTS = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿⁱ", "0123456789-+ni"))
SUBSCRIPTS = dict(zip("₀₁₂₃₄₅₆₇₈₉ₙ", "0123456789n"))


def _command(letter: str) -> str:
    r"""The LaTeX command of a Greek letter: \alpha of "α", \Delta of "Δ"."""
    name = unicodedata.name(letter).split()[-1].lower().replace("lamda", "lambda")  # Unicode's spelling of "λ"
    return f"\\{name.capitalize() if letter < 'α' else name} "


GREEK_LETTERS = {letter: _command(letter) for letter in "ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩαβγδεζηθικλμνξοπρστυφχψω"}
CHARACTERS = str.maketrans(GREEK_LETTERS | {
    "−": "-", "–": "-", "—": "-", "×": "*", "·": "*", "⋅": "*", "∙": "*", "÷": "/", "∕": "/", "⁄": "/",
    "√": " sqrt ", "∛": " cbrt ", "∞": "\\infty ", "…": "\\ldots ", "⋯": "\\ldots ", "∑": "\\sum ",
    "∏": "\\prod ", "∫": "\\int ", "或": " or ", "且": " and ", "和": " and ", "、": ",", "∩": "\\cap ",
    "≈": "\\approx ", "‖": "|", "∅": "\\emptyset ", "°": "^\\circ ", "≤": "<=", "≥": ">=", "≠": "!=",
    "∪": "\\cup ", "∈": "\\in ", "±": "\\pm ", "∓": "\\mp ", "ℝ": "\\R ", "⟨": "\\langle ", "⟩": "\\rangle ",
    "〈": "\\langle ", "〉": "\\rangle ", "⌊": "\\lfloor ", "⌋": "\\rfloor ", "ℤ": "\\mathbb{Z}",
    "ℕ": "\\mathbb{N}", "ℚ": "\\mathbb{Q}", "⌈": "\\lceil ", "⌉": "\\rceil ", "≡": "=", "′": "'", "’": "'",
    "∧": " and ", "∨": " or ", "∖": "\\setminus ",
    "⇒": "\\implies ", "→": "\\to ", "∴": "\\therefore ", "𝑖": "i", "ϕ": "\\phi ", "€": "\\euro ", "£": "\\pound ",
    "¢": " cents ", "¥": "\\yen ", "₹": "\\rupee ", "⩽": "<=", "⩾": ">=", "∣": "|", "µ": "\\mu ",
    "Ω": "\\Omega ", "‰": "/1000"})
SPACING = re.compile(
    r"\\\\|\\\$|\\(?:[()\[\]!]|(?:left|right|middle|[bB]igg?[lrm]?|displaystyle|textstyle|limits|,!)(?![A-Za-z])\.?)"
    r"|\\(?:[,;:> ]|(?:quad|qquad|thinspace|enspace)(?![A-Za-z]))|[~$\u200b]")
FONT = re.compile(
    r"\\(?:(text(?:bf|it|rm|sf|tt|normal|sc|up|md)?|mathrm|mbox|rm|bf|it)|math(?:bf|it|sf|bb(?=\{[^R])|cal)"
    r"|operatorname|boldsymbol|emph|bm|underline)"
    r"\*? *(?:\{((?:[^{}]|\{[^{}]*\})*)\}|(?<=[a-z] )([A-Za-z0-9]))")
ENVIRONMENT = re.compile(
    r"\\begin *\{(aligned|align\*?|cases|gathered|split)\}((?:(?!\\begin).)*)\\end *\{\1\}", re.DOTALL)
REMARK = re.compile(rf"(?<=[0-9}})%])[ {MARK}]+\( ?([A-Za-z]{{3,}}[A-Za-z ,-]*)\)$")
IN_BRACKETS = re.compile(  # a unit: 10 (cm), 10(\text{cm})
    rf"(?<=[0-9}}])(?: +\(|\((?={MARK}| {MARK}))[ {MARK}]*([A-Za-z][A-Za-z. /]*(?:\^ ?\{{?[23]\}}?)?) *\)$")
SYMBOLS = "\u25a0-\u27bf\U0001f300-\U0001faff"  # check marks, the end of a proof, emoji
DECIMAL_DOTS = re.compile(r"(?<=[0-9]\.)([0-9]{1,40}) *(?:\.\.+|\\ldots(?![A-Za-z]))")


def _repeated(match: re.Match) -> str:
    r"""0.1666... is 0.1\overline{6}: the shortest run that stands twice at the end. Without one the dots stay."""
    digits = match[1]
    for length in range(1, len(digits) // 2 + 1):
        if digits[-length:] == digits[-2 * length:-length]:
            while digits[-2 * length:-length] == digits[-length:]:
                digits = digits[:-length]
            return f"{digits[:-length]}\\overline{{{digits[-length:]}}}"
    return digits + "\\ldots "


def _primes(match: re.Match) -> str:
    return "'" * (match[1] or match[2]).count("prime")


def _joined(match: re.Match) -> str:
    r"""\mathbf{3 6}, as text recognition writes it, is 36."""
    return match[1].replace(" ", "")


def normalise(text: str) -> str:
    """The spelling in which answers are compared and read."""
    text = text.replace("US$", "$")
    if text.count("$") == 1:
        text = re.sub(r"(?<!\\)\$ ?(?=[0-9])", r"\\dollar ", text)
    text = "".join(rf"\frac{{{FRACTIONS[c][0]}}}{{{FRACTIONS[c][1]}}}" if c in FRACTIONS else c for c in text)
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿⁱ]+", lambda run: "^{" + "".join(SUPERSCRIPTS[c] for c in run[0]) + "}", text)
    text = re.sub("[₀₁₂₃₄₅₆₇₈₉ₙ]+", lambda run: "_{" + "".join(SUBSCRIPTS[c] for c in run[0]) + "}", text)
    text = unicodedata.normalize("NFKC", text.translate(CHARACTERS)).translate(CHARACTERS)
    text = re.sub(r"(?![0-9])\d", lambda digit: str(unicodedata.decimal(digit[0])), text)
    text = re.sub(r"\\! *", "", text)
    text = re.sub(r"\\[dtc]frac(?![A-Za-z])", r"\\frac", text)
    text = re.sub(r"\^ *(?:\{ *((?:\\prime *)+)\}|(\\prime)(?![A-Za-z]))", _primes, text)
    text = re.sub(r"(?<=[0-9])(?:\{,\}|\\,)(?=[0-9]{3}(?![0-9]))", "", text)
    text = re.sub(r"(?:\$|\\\)) *(?=[A-Za-z][A-Za-z/^2-3 .]*$)", f" {MARK}", text)  # $5$ m
    text = re.sub(r"^ *~ *(?=[0-9][^~]*$)", r"\\approx ", text)
    text = SPACING.sub(lambda match: {"\\\\": "\\\\", "\\$": "\\dollar "}.get(match[0], " "), text)
    text = re.sub(r"\\math(?:bb|bf) *(?:\{ *R *\}|R\b)", r"\\R ", text)
    text = re.sub(r"\\(?:mathbf|textbf|bf|mathrm) *\{ *([0-9](?: [0-9])+) *\}", _joined, text)
    for _ in range(2):
        text = FONT.sub(lambda match: (f" {MARK}" if match[1] else " ") + (match[2] or match[3] or ""), text)
    text = ENVIRONMENT.sub(lambda m: re.sub(r"\\\\[ &]*(=?)", lambda row: row[1] or ", ", m[2]).replace("&", ""), text)
    text = re.sub(r"^\*\*([^*\n]{1,40}?):?\*\*:? ?(?=.)", r"\1: ", text)  # **Total:** 12
    text = text.strip("* ").replace("**", "^")  # first the marks of bold text, then powers
    text = DECIMAL_DOTS.sub(_repeated, in_one_notation(text))
    text = re.sub(rf"^[=\s\"`{SYMBOLS}]+|[\s\"`.,;\\{SYMBOLS}]+$", "", " ".join(text.split()))
    unit = IN_BRACKETS.search(text, max(0, len(text) - 60))
    if unit and {*re.findall("[A-Za-z]+", unit[1])} <= {*UNITS, "sq", "square", "cubic", "cu", "per"}:
        text = f"{text[:unit.start()]} {MARK}{unit[1].strip()}"  # 10 (cm)
    if (remark := REMARK.search(text, max(0, len(text) - 80))) and not HEDGE.search(remark[1]):
        text = text[:remark.start()]  # 5050 (five thousand fifty)
    return re.sub(r"^(['_]{1,3})(.+)\1$", r"\2", text)
