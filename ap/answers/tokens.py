"""Tokens: the text of an answer as numbers, letters, commands and signs."""
from __future__ import annotations

import re

MAX_TOKENS = 4000


class Unreadable(Exception):
    """Not in the language, ambiguous, or too large. The message says which."""


GREEK = frozenset("""alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho
    sigma tau upsilon phi varphi chi psi omega hbar ell
    Gamma Delta Theta Lambda Xi Pi Sigma Upsilon Phi Psi Omega""".split())
FUNCTIONS = {name: name for name in """sin cos tan cot sec csc sinh cosh tanh ln log exp abs
    floor ceil gcd lcm max min cis""".split()} | {
    "lg": "lg", "factorial": "!", "ceiling": "ceil",
    "arcsin": "asin", "arccos": "acos", "arctan": "atan", "asin": "asin", "acos": "acos", "atan": "atan"}
SAME = {  # tokens that mean another token
    "\\cdot": "*", "\\times": "*", "\\ast": "*", "\\div": "/", "\\%": "%", "\\le": "<=", "\\leq": "<=", "\\ge": ">=",
    "\\geq": ">=", "\\leqslant": "<=", "\\geqslant": ">=", "\\ne": "!=", "\\neq": "!=", "\\lt": "<", "\\gt": ">",
    "\\equiv": "=", "\\varnothing": "\\emptyset", "\\lvert": "|", "\\rvert": "|", "\\vert": "|", "\\mid": "|",
    "\\lbrace": "\\{", "\\rbrace": "\\}", "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac",
    "\\dbinom": "\\binom", "\\tbinom": "\\binom", "\\land": "and", "\\lor": "or", "\\wedge": "and", "\\vee": "or",
    "\\overrightarrow": "\\vec", "Infinity": "\\infty", "\\tg": "\\tan", "\\colon": ":", "pi": "\\pi",
    "infinity": "\\infty", "inf": "\\infty",
    "oo": "\\infty", "sqrt": "sqrt", "cbrt": "cbrt", "or": "or", "and": "and", ";": ",", "\\bar": "\\overline",
    "\\top": "T", "\\backslash": "\\setminus", "\\widehat": "\\hat",
}
COMMANDS = frozenset("""\\frac \\sqrt \\pi \\infty \\emptyset \\pm \\mp \\cup \\in \\setminus \\langle \\rangle \\lfloor
    \\rfloor \\lceil \\rceil \\binom \\overline \\hat \\vec \\tilde \\dot \\ddot \\circ \\R \\sum \\prod \\int
    \\ldots""".split())
WORDS = sorted({*FUNCTIONS, *(word for word in SAME if word.isalpha()), "i"}, key=len, reverse=True)
ENGLISH = frozenset("if of is it to we get got the for has had was let all any can her his she its are put use but who".split())
TOKEN = re.compile(r"""\ *(?:
    (?P<number> [1-9][0-9]{0,2} (?:\ [0-9]{3})+ (?:\.[0-9]+)? (?!\ *[/0-9])      # 12 345.6
        | (?:[0-9]+\.?[0-9]*|\.[0-9]+) (?:[eE][+-]?[0-9]+)? )
    | (?P<matrix> \\(?:begin|end) \ * \{(?:[pb]|small)?matrix\}
        | \\(?:begin\ *\{array\}\ *\{[clr|\ ]*\} | end\ *\{array\}) | \\\\ | & )
    | (?P<command> \\[A-Za-z]+ | \\[{}%] )
    | (?P<letters> [A-Za-z]+ )
    | (?P<sign> <= | >= | != | [-+*/^(){}\[\],;%!|=<>_':] ) )""", re.VERBOSE)
GROUPED = re.compile(r" *([1-9][0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?)(?![0-9]|,[0-9])")
MATRIX_BEGIN, MATRIX_END, ROW = "\\begin", "\\end", "\\\\"


def tokens_of(text: str) -> list[str]:
    """Numbers without separators, commands, letters one by one, signs.

    A comma before groups of three digits is a separator outside of brackets only.
    """
    text, tokens, position, depth = text.rstrip(), [], 0, 0
    while position < len(text):
        match = (GROUPED.match(text, position) if depth == 0 else None) or TOKEN.match(text, position)
        if match is None or len(tokens) > MAX_TOKENS:
            raise Unreadable("not an expression" if match is None else "too long")
        token, kind = match[0].strip(), match.lastgroup
        if token[0].isdigit():
            token = token.replace(",", "").replace(" ", "")
        depth += (token in ("(", "{", "[", "\\{")) - (token in (")", "}", "]", "\\}"))
        position = match.end()
        if kind == "letters":
            tokens += _split(token)
            if len(tokens[-1]) == 1 and (digits := re.compile("[0-9]+(?![0-9]*(?: *\\^|\\.))").match(text, position)):
                tokens += ["_", digits[0]]  # x1, H2O
                position = digits.end()
        elif kind == "matrix":
            tokens.append(re.match(r"\\begin|\\end|&|\\\\", token)[0])
        elif kind == "command":
            name = token[1:]
            token = name if name in FUNCTIONS else SAME.get(token, token)
            if token[0] == "\\" and token not in COMMANDS and name not in GREEK and not token[1:] in "{}":
                raise Unreadable("unknown command")
            tokens.append(token)
        else:
            tokens.append(SAME.get(token, token))
    return tokens


def _split(run: str) -> list[str]:
    """A run of letters: one name ("sin", "pi"), a name and letters behind it ("sinx"), or letters ("xy")."""
    if run.lower() in ENGLISH:
        raise Unreadable("words")
    name = next((word for word in WORDS if run.startswith(word) and word != "i"), "")
    rest = run[len(name):]
    if name in ("or", "and", "inf", "oo") and rest or len(rest) > (1 if name else 3):
        name, rest = "", run
    if len(rest) > 3:
        raise Unreadable("words")
    return ([SAME.get(name, name)] if name else []) + list(rest)
