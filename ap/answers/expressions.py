r"""Expressions: from the text of an answer to a tree of `Node`s.

The text was written by a model, so nothing here trusts it. A tokenizer and a recursive-descent parser make a tree of
`Node`s; no string ever reaches eval, sympy or anything else that evaluates strings. Length, depth, exponents,
factorials and digits are limited *before* anything is computed, and there are no signals and no shared state.

Ambiguous notations are not read: 1/2x, \sqrt23, 2\frac{3}{2}, (-8)^{1/3}, n!!. \log without a base has some unknown
base, the same throughout: \log 8/\log 2 is 3, but \log 100 is not 2.
"""
from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Iterator

from ap.answers.tokens import FUNCTIONS, GREEK, MATRIX_BEGIN, MATRIX_END, ROW, Unreadable, tokens_of

MAX_DEPTH = 50  # of brackets and exponents


@dataclass(frozen=True)
class Node:
    """op: "num" (a Fraction), "var" (a name), "pi", "e", "i", "inf", an operation, or a kind of answer (meaning.py)."""

    op: str
    args: tuple = ()

    def walk(self) -> Iterator["Node"]:
        stack = [self]
        while stack:
            node = stack.pop()
            yield node
            stack.extend(arg for arg in node.args if isinstance(arg, Node))

    def has(self, *ops: str) -> bool:
        return any(node.op in ops for node in self.walk())

    @property
    def variables(self) -> frozenset[str]:
        """The free variables: in a sum over k, k is not free, but it may be free beside the sum."""
        found, stack = set(), [(self, frozenset())]
        while stack:
            node, bound = stack.pop()
            if node.op == "var" and node.args[0] not in bound:
                found.add(node.args[0])
            parts = [arg for arg in node.args if isinstance(arg, Node)]
            if node.op in ("sum", "prod"):
                stack.append((parts.pop(), bound | {node.args[0]}))
            stack.extend((part, bound) for part in parts)
        return frozenset(found)


def num(value) -> Node:
    return Node("num", (Fraction(value),))


INFINITY, MINUS_INFINITY = Node("inf"), Node("neg", (Node("inf"),))
REALS = Node("()", (MINUS_INFINITY, INFINITY))

DOTS, BASE = Node("var", ("...",)), Node("var", ("base of log",))
CONSTANTS = {"\\pi": Node("pi"), "\\infty": INFINITY, "\\emptyset": Node("set"), "\\R": REALS, "\\ldots": DOTS}
ARC = {"sin": "asin", "cos": "acos", "tan": "atan", "sinh": "asinh", "cosh": "acosh", "tanh": "atanh"}
STARTS = ("(", "{", "[", "\\{", "|", "\\pi", "\\infty", "\\frac", "\\sqrt", "sqrt", "cbrt", "\\binom", "\\lfloor",
          "\\lceil", "\\hat", "\\vec", "\\tilde", "\\overline", "\\dot", "\\ddot", "\\langle", "\\begin", "\\sum",
          "\\prod", "\\int", "\\ldots", *FUNCTIONS)
CLOSING = {"(": (")", "]"), "[": ("]", ")"), "{": ("}",), "\\{": ("\\}",), "\\langle": ("\\rangle",), "|": ("|",),
           "\\lfloor": ("\\rfloor",), "\\lceil": ("\\rceil",)}
POINT = re.compile(  # where a function is taken: 0, -1, \\infty, \\pi/2, but not 1 + \\sqrt{2}
    r"[-+]?(?:[0-9.]+(?:/[0-9]+)?|\\infty|[0-9]*(?:\\pi)?(?:/[0-9]+)?|\\frac\{(?:[0-9]+|[0-9]*\\pi)\}\{[0-9]+\})")
FRACTION = re.compile(r"(?:\\frac \{ ([0-9]{1,9}) \} \{ ([0-9]{1,9}) \}|\\frac ([0-9])([0-9])"
                      r"|([0-9]{1,9}) / ([0-9]{1,9}))(?: |$)")
RELATIONS = ("=", "<", ">", "<=", ">=", "!=", "\\in")


class Parser:
    r"""answer := clause ([, or and] clause)*;  clause := union (relation union)*;
    union := ratio ([\cup \setminus] ratio)*;  ratio := sum (: sum)*;
    sum := [sign] product (sign product)*;  product := factor ([* /] [-] factor | factor)*;
    factor := atom [!] [%] [^ [-] factor];  atom := number | letter | function | \frac | \sqrt | brackets | ..."""

    def __init__(self, text: str):
        self.bound = ()  # variables of sums: \sum_{i=1}
        arguments = {}  # of f, g, h: f(x + 1) - f(x) is no product
        for name, inside in re.findall(r"(?<![A-Za-z\\])([fghFGHPE])(?:\\left)? ?\(([^()]*)\)", text):
            arguments.setdefault(name, set()).add(inside.replace(" ", ""))
        self.functions = {name for name, several in arguments.items() if len(several) > 1}
        self.tokens, self.position, self.depth, self.bars = tokens_of(text) + [""], 0, 0, 0

    @property
    def next(self) -> str:
        return self.tokens[self.position]

    def take(self, *allowed: str) -> str:
        """The next token, which must be one of `allowed`, if any are given."""
        token = self.next
        if not token or (allowed and token not in allowed):
            raise Unreadable("not an expression" if token else "ends too early")
        self.position += 1
        return token

    def accept(self, *allowed: str) -> str:
        """The next token if it is one of `allowed`, else nothing."""
        return self.take() if self.next in allowed else ""

    def enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise Unreadable("nested too deeply")

    def whole(self) -> Node:
        node = self.entries()
        if self.next:
            raise Unreadable("not an expression")
        return node

    def entries(self) -> Node:
        """One clause, or a Node "list", "or", "and" of several."""
        found, kind = [self.clause()], "list"
        while separator := self.accept(",", "or", "and"):
            if separator == ",":
                separator = self.accept("or", "and") or separator
            if separator != ",":
                if kind not in ("list", separator):
                    raise Unreadable("both or and and")
                kind = separator
            found.append(self.clause())
        return found[0] if len(found) == 1 else Node(kind, tuple(found))

    def clause(self) -> Node:
        """A sum, or Node "relation" of the signs and the parts between them."""
        parts, signs = [self.union()], []
        while sign := self.accept(*RELATIONS):
            signs.append(sign)
            parts.append(self.union())
        return Node("relation", (tuple(signs), *parts)) if signs else parts[0]

    def union(self) -> Node:
        node = self.ratio()
        while sign := self.accept("\\cup", "\\setminus"):
            node = Node("union" if sign == "\\cup" else "minus", (node, self.ratio()))
        return node

    def ratio(self) -> Node:
        parts = [self.sum()]
        while self.accept(":"):
            parts.append(self.sum())
        return parts[0] if len(parts) == 1 else Node(":", tuple(parts))

    def sum(self) -> Node:
        terms = [self.term(self.accept("+", "-", "\\pm", "\\mp"))]
        while sign := self.accept("+", "-", "\\pm", "\\mp"):
            terms.append(self.term(sign))
        return terms[0] if len(terms) == 1 else Node("+", tuple(terms))

    def term(self, sign: str) -> Node:
        node = self.product() if sign != "+" or self.next != "-" else self.term(self.take())  # 14 + -1
        if sign == "-" and node.op == "matrix":
            return _multiple((num(-1),), node)
        return Node({"-": "neg", "\\pm": "pm", "\\mp": "mp"}[sign], (node,)) if sign not in ("", "+") else node

    def product(self) -> Node:
        factors, divided = [self.factor()], False
        while True:
            sign = self.accept("*", "/")
            if not sign and not self.starts():
                break
            if not sign and divided:
                raise Unreadable("ambiguous: is what follows a/b above or below the line?")
            divided = sign == "/"
            factor = self.signed_factor() if sign else self.factor()
            factors.append(Node("inv", (factor,)) if divided else factor)
        matrices = [factor for factor in factors if factor.op == "matrix"]
        if len(factors) > 1 and len(matrices) == 1:
            return _multiple([factor for factor in factors if factor.op != "matrix"], matrices[0])
        if len(factors) == 2 and factors[1].op == "()" and factors[0].op == "var" and factors[0].args[0][0].isupper():
            return factors[1]  # the point P(2, 3)
        return factors[0] if len(factors) == 1 else Node("*", tuple(factors))

    def starts(self) -> bool:
        """Does the next token begin a factor that is multiplied without a sign?

        A number does so only as a power behind a letter or a bracket, or behind a factorial: n2^n, 2!2!.
        """
        token, last = self.next, self.tokens[self.position - 1]
        if token.isdigit() and self.tokens[self.position + 1] == "^":
            return last == ")" or len(last) == 1 and last.isalpha()
        if token.isdigit():
            return last == "!"
        if token == "|":
            return self.bars == 0
        return token in STARTS or (len(token) == 1 and token.isalpha()) or token[1:] in GREEK

    def signed_factor(self) -> Node:
        return Node("neg", (self.factor(),)) if self.accept("-") else self.factor()

    def factor(self) -> Node:
        node = self.atom()
        if self.accept("!"):
            node = Node("!", (node,))
            if self.next == "!":
                raise Unreadable("ambiguous: a double factorial?")
        if self.accept("%"):
            node = Node("*", (node, num(Fraction(1, 100))))
        if self.accept("^"):
            if self.accept("\\circ") or (self.next == "{" and self.tokens[self.position + 1] == "\\circ"
                                         and self.take() and self.take() and self.take("}")):
                return Node("degrees", (node,))
            if self.next == "T" or self.tokens[self.position:self.position + 3] == ["{", "T", "}"]:
                if node.op in ("matrix", "()", "[]"):
                    self.position += 1 if self.next == "T" else 3
                    return _transposed(node)
            self.enter()
            node = Node("^", (node, self.signed_factor()))
            self.depth -= 1
            if self.accept("!"):
                raise Unreadable("ambiguous: the factorial of what?")
            if node.args[0].op == "var" and (point := self.at_a_point(False)):  # f^{-1}(0), f^{(3)}(0)
                node = Node("^", (Node("var", (node.args[0].args[0] + point,)), node.args[1]))
        return node

    def atom(self) -> Node:
        token = self.take()
        if token[0].isdigit() or token[0] == ".":
            return self.number(token)
        if len(token) == 1 and token.isalpha() or token[1:] in GREEK:
            return self.letter(token)
        if token in CONSTANTS:
            return CONSTANTS[token]
        self.enter()
        if token == "\\frac":
            top = self.argument(more=1)
            node = Node("*", (top, Node("inv", (self.argument(),))))
        elif token == "\\binom":
            node = Node("binom", (self.argument(more=1), self.argument()))
        elif token in ("\\sqrt", "sqrt", "cbrt"):
            index = num(3 if token == "cbrt" else 2)
            if token == "\\sqrt" and self.accept("["):
                index = self.sum()
                self.take("]")
            plain = token != "\\sqrt" or self.next == "("
            node = Node("root", (self.atom() if plain else self.argument(), index))
        elif token in ("\\hat", "\\vec", "\\tilde", "\\overline", "\\dot", "\\ddot"):
            braced = self.accept("{")
            name = token
            while self.next and self.next != "}" and (braced or name == token):
                name += self.take()
            if braced:
                self.take("}")
            node = Node("var", (name + self.at_a_point(False),))
        elif token in ("\\sum", "\\prod", "\\int"):
            node = self.series(token[1:])
        elif token in FUNCTIONS:
            node = self.function(FUNCTIONS[token])
        elif token == MATRIX_BEGIN:
            node = self.matrix()
        elif token in CLOSING:
            node = self.bracket(token)
        else:
            raise Unreadable("not an expression")
        self.depth -= 1
        return node

    def series(self, kind: str) -> Node:
        r"""\sum and \prod over a variable, which may be i or e. An integral is not computed: it equals only itself."""
        if kind == "int":
            ends = [self.argument(more=None) if self.accept(sign) else num(0) for sign in "_^"]
            return Node("int", (*ends, self.product()))
        self.take("_"), self.take("{")
        name = self.take()
        self.take("=")
        low = self.sum()
        self.take("}"), self.take("^")
        high = self.argument(more=None)
        self.bound += (name,)
        return Node(kind, (name, low, high, self.product()))

    def letter(self, name: str) -> Node:
        """A variable with its subscript and primes; e and i are numbers."""
        if self.accept("_"):
            name += "_" + self.subscript()
        while self.accept("'"):
            name += "'"
        if name not in ("\\pi", "e", "i"):
            name += self.at_a_point(name in self.functions)
        return Node(name) if name in ("e", "i") and name not in self.bound else Node("var", (name,))

    def at_a_point(self, is_function: bool) -> str:
        """What stands in brackets behind a letter, if it is a number, or the letter a function: I(0) is the value of I
        at 0, and not I times 0. So the whole is one name."""
        if self.next != "(":
            return ""
        end = next((i for i in range(self.position, len(self.tokens)) if self.tokens[i] == ")"), self.position)
        inside = self.tokens[self.position + 1:end]
        if not POINT.fullmatch("".join(inside)) and not (is_function and "(" not in inside and "," not in inside):
            return ""
        self.position = end + 1
        return f"({''.join(inside)})"

    def subscript(self) -> str:
        if not self.accept("{"):
            return self.take()
        parts = []
        while self.next != "}":
            parts.append(self.take())
        self.take("}")
        return "".join(parts)

    def function(self, name: str) -> Node:
        r"""A function with its argument: in brackets, or the factors that follow. \sin^2 x is (\sin x)^2."""
        base = exponent = None
        if name == "log" and self.accept("_"):
            base = self.argument(more=None)
        if self.accept("^"):
            exponent = self.signed_factor()
            if exponent == Node("neg", (num(1),)):
                name, exponent = ARC.get(name, ""), None
                if not name:
                    raise Unreadable("ambiguous: an inverse function or 1 over it?")
        if self.next in ("(", "[", "|") or self.next == "{":
            argument = self.atom()
        else:
            factors = [self.factor()]
            while self.starts() and self.next not in FUNCTIONS and self.next not in ("(", "["):
                factors.append(self.factor())
            argument = factors[0] if len(factors) == 1 else Node("*", tuple(factors))
        if name in ("gcd", "lcm", "max", "min"):
            return Node(name, argument.args if argument.op in ("()", "set") else (argument,))
        if name in ("log", "lg"):
            base = num(10) if name == "lg" else base or BASE
            node = Node("*", (Node("ln", (argument,)), Node("inv", (Node("ln", (base,)),))))
        elif name == "cis":
            node = Node("^", (Node("e"), Node("*", (Node("i"), argument))))
        else:
            node = Node(name, (argument,))
        return Node("^", (node, exponent)) if exponent else node

    def bracket(self, opening: str) -> Node:
        if opening in ("\\{", "{") and self.accept("\\}", "}"):
            return Node("set")
        bars, self.bars = self.bars, int(opening == "|")
        node = self.entries()
        self.bars = bars
        ending = self.take(*CLOSING[opening])
        if opening in ("|", "\\lfloor", "\\lceil"):
            return Node({"|": "abs", "\\lfloor": "floor", "\\lceil": "ceil"}[opening], (node,))
        many = node.op in ("list", "or", "and")
        if opening == "\\{" or (opening == "{" and many):
            return Node("set", node.args if many else (node,))
        if not many and opening + ending in ("()", "{}", "[]"):
            return node
        brackets = "()" if opening == "\\langle" else opening + ending
        return Node(brackets, node.args if many else (node,))

    def matrix(self) -> Node:
        rows = [[self.sum()]]
        while sign := self.accept("&", ROW):
            if sign == "&":
                rows[-1].append(self.sum())
            elif self.next != MATRIX_END:
                rows.append([self.sum()])
        self.take(MATRIX_END)
        return Node("matrix", tuple(Node("row", tuple(row)) for row in rows))

    def argument(self, more: int | None = 0) -> Node:
        r"""An argument of \frac or \sqrt: a group, one digit or one letter. `more` digits may follow: \frac12."""
        if self.next[:1].isdigit():
            token = self.take()
            if more is not None and (len(token) > 1 + more or not token.isdigit()):
                raise Unreadable("ambiguous digits after a command")
            if more is not None and len(token) == 2:
                self.position -= 1
                self.tokens[self.position] = token[1]
                token = token[0]
            return num(token)
        if self.next != "{":
            return self.atom() if self.next in STARTS[5:] or self.starts() and self.next.isalpha() else self.take("{")
        self.take("{")
        node = self.sum()
        self.take("}")
        return node

    def number(self, token: str) -> Node:
        r"""A decimal number, also 0.\overline{3}, or a whole number and a proper fraction: 1 1/2."""
        mantissa, _, exponent = token.lower().partition("e")
        if len(mantissa) > 4000 or len(exponent) > 5 or abs(int(exponent or 0)) > 10_000:
            raise Unreadable("too large")
        value = Fraction(mantissa.rstrip(".")) * Fraction(10) ** int(exponent or 0)
        if self.next == "\\overline" and "." in token:
            return num(value + self.repeating(len(token.partition(".")[2])))
        part = self.proper_fraction()
        if part is None:
            if self.next[:1].isdigit() or self.next[:1] == ".":
                raise Unreadable("two numbers side by side")
            return num(value)
        if not token.isdigit() or not 0 < part[0] < part[1] or self.next in ("/", "^"):
            raise Unreadable("ambiguous: a mixed number or a product?")
        return num(value + Fraction(*part))

    def repeating(self, places: int) -> Fraction:
        """The value of the repeating digits (those under a line) that start after `places` decimal places."""
        self.take(), self.take("{")
        digits = self.take()
        self.take("}")
        if not digits.isdigit() or len(digits) + places > 100:
            raise Unreadable("digits under a line")
        return Fraction(int(digits), (10 ** len(digits) - 1) * 10**places)

    def proper_fraction(self) -> tuple[int, int] | None:
        r"""Numerator and denominator of the \frac or a/b that comes next, if both are plain whole numbers."""
        match = FRACTION.match(" ".join(self.tokens[self.position:self.position + 7]))
        if not match:
            return None
        self.position += match[0].rstrip().count(" ") + 1
        top, bottom = filter(None, match.groups())
        return int(top), int(bottom)


def _multiple(factors, matrix: Node) -> Node:
    rows = []
    for row in matrix.args:
        rows.append(Node("row", tuple(Node("*", (*factors, entry)) for entry in row.args)))
    return Node("matrix", tuple(rows))


def _transposed(node: Node) -> Node:
    """The transpose of a matrix; a tuple is a row, so its transpose is a column."""
    rows = [row.args for row in node.args] if node.op == "matrix" else [node.args]
    return Node("matrix", tuple(Node("row", column) for column in zip(*rows)))
