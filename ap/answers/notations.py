r"""Rules that turn a notation into another that the parser reads, applied in this order (by spelling.py).

Each rule: an example of what it reads, a pattern, and the replacement.
"""
from __future__ import annotations

import re

MARK = "\u2063"  # left in the place of \text{}: the letters behind it are no variable
O, C = r" *\{? *", r" *\}?"  # optional braces
N = rf"{O}([0-9]+){C}"
OF = r"[A-Za-z](?= *\})"  # what is derived

UNSURE = ("not|no|never|opposite|negative|if|or|first|gold|given|reference|previous|wrong|incorrect|other|possible"
          "|approximate|estimated")

RULES = [(example, re.compile(pattern), new) for example, pattern, new in (
    # sets of numbers
    (r"\R^+, \R_{>0}", rf"\\R *[\^_]{O}(?:\+|> *0){C}", r"(0, \\infty)"),
    (r"\R^-, \R_{<0}", rf"\\R *[\^_]{O}(?:-|< *0){C}", r"(-\\infty, 0)"),
    (r"\R_{\ge 0}", rf"\\R *_{O}(?:\\geq?|>=) *0{C}", r"[0, \\infty)"),
    (r"\R^*", rf"\\R *\^{O}(?:\*|\\ast){C}", r"(\\R \\setminus \\{0\\})"),
    (r"\R - \{2\}", r"\\R *- *(?=\\\{)", r"\\R \\setminus "),
    (r"[1, 2] U [3, 4]", r"(?<=[\])]) *U *(?=[\[(])", r"\\cup "),
    (r"all real numbers x > 3", rf"^[ {MARK}]*all (?:real numbers |integers )? *(?=[a-z] *(?:\\[gln]e|[<>!]))", ""),
    (r"x \in \R, x > 3", r"^([a-z]) *\\in *\\R *, *(?=\1)", ""),
    # signs
    (r"1, 2, ..., 9", r"\\(?:dots|cdots|dotsc|dotsb)(?![A-Za-z])|(?<=[,+*]) *\.\.\.+", r"\\ldots "),
    (r"f(x) \equiv 0", r"\\equiv(?![A-Za-z])", "="),
    (r"3{:}30", r"\{ *([:;,]) *\}", r"\1"),
    (r"x =< 3", r"=<", "<="),
    (r"+/- 2", r"\+/?-(?! *-)", r"\\pm "),
    (r"\|v\|", r"\\\||\\[lr]?Vert(?![A-Za-z])", "|"),
    (r"\hat{\imath}", r"\\([ij])math(?![A-Za-z])", r"\1"),
    (r"2*I", r"\* *I\b", "*i"),
    (r"3+4j", r"^([-+0-9. ]*[0-9])j$", r"\1i"),
    # dressing
    (r"\color{red}", r"\\(?:(?:text)?color|[hv]?phantom|hspace\*?|tag) *\{[^{}]*\}", ""),
    (r"\small", r"\\(?:small|large|Large|normalsize|rm|bf|it|bfseries)(?![A-Za-z])", " "),
    (r"The answer is 5", rf"(?i)^[ {MARK}]*(?:the )?(?:final |correct )?answer(?: is)?[: ]+", ""),
    (r"So 5", r"(?i)^(?:so|thus|therefore|hence)[,:]? (?=\S)", ""),
    (r"\implies 5", r"^(?:[=-]+>|\\(?:implies|[Rr]ightarrow|to|therefore)(?![A-Za-z]))", ""),
    (r"5 is the answer", r"^(.{,80}) is (?:the|our|my) (?:final |correct )?answer\.?$", r"\1"),
    (r"I get 5 as the final answer", r"^(?:[Ii]|[Ww]e) (?:get|got|have|obtain|find) (.{1,80}) as (?:the|my|our) "
     r"(?:final )?(?:answer|result)\.?$", r"\1"),
    (r"5, because 2 + 3 = 5", r"^([^,]{1,80}?),? (?:because|since) "
     r"(?!.*\b(?:or|but|not|maybe|perhaps|if|may|might|could|unless)\b).*$", r"\1"),
    ("B\nExplanation: A is small", r"^([^\n]{1,40})\n\s*\**(?:Explanation|Reason|Reasoning|Justification)\b[\s\S]*",
     r"\1"),
    (r"The area is 5", rf"(?i)^the(?: (?!(?:{UNSURE})\b)[a-z-]+){{1,8}} (?:is|are|equals?)(?: at| equal to)?:?\s+"
     r"(?=[a-z] *=|[^a-z]*[0-9\\()]|true\b|false\b)", ""),
    (r"equals 7", r"^(?:[Ii]t(?:'s| is)|is|equals) (?:equal to )?", ""),
    (r"3/4 (or 0.75)", r"\(or ([^()]*)\)$", r"or \1"),
    (r"Matrix([[1, 2]])", r"^(?:Matrix|np\.array|array|matrix)\((.*)\)$", r"\1"),
    # numbers
    (r"0.\dot{1}4\dot{2}", rf"\\dot{O}([0-9]){C}([0-9]*)\\dot{O}([0-9]){C}", r"\\overline{\1\2\3}"),
    (r"0.\dot{3}", rf"\\dot{O}([0-9]){C}", r"\\overline{\1}"),
    (r"0.1(6)", r"(\.[0-9]*)\(([0-9]+)\)$", r"\1\\overline{\2}"),
    (r"1_000", r"(?<=[0-9])_(?=[0-9]{3}(?![0-9]))", ""),
    (r"6.02 x 10^23", r"(?<=[0-9]) *x *(?=10 *\^)", "*"),
    (r"minus 7", r"^(?:minus|negative) (?=[0-9a-z])", "-"),
    (r"7 R 3", r"^([0-9]+),? *(?:[Rr]|rem|remainder) *([0-9]+)$", r"\1 remainder \2"),
    (r"3 to 2", r"^([0-9]+) to ([0-9]+)$", r"\1:\2"),
    (r"1 out of 6", r"^([0-9]+) (?:in|out of) ([0-9]+)$", r"\1/\2"),
    (r"25 percent", rf"(?<=[0-9])[ {MARK}]*(?:percent(?:age)?|per cent|pct)\b", "%"),
    (r"60 degrees", rf"(?<=[0-9)}}])[ {MARK}]*(?:degrees?|deg)\b\.?", r"^\\circ "),
    (r"30^\circ 15'", rf"(?<![0-9])([0-9]{{1,3}}) *\^{O}\\circ{C} *([0-9]+) *'(?: *([0-9]+) *(?:''|\"))?$",
     r"(\1+\2/60+0\3/3600)^\\circ"),
    # functions
    (r"\frac{dy}{dx}", rf"\\frac *\{{ *d *({OF}) *\}} *\{{ *d *[a-z] *\}}", r"\1'"),
    (r"dy/dx", r"\bd([a-z]) */ *d[a-z]\b", r"\1'"),
    (r"\frac{d^2 y}{dx^2}", rf"\\frac *\{{ *d *\^{O}2{C} *({OF}) *\}} *\{{ *d *[a-z] *\^{O}2{C}\}}",
     r"\1''"),
    (r"log2(8)", r"(?<![A-Za-z\\])log_?(2|10) *(?=\()", r"\\log_{\1}"),
    (r"{n \choose k}", r"\{([^{}]*)\\choose(?![A-Za-z])([^{}]*)\}", r"\\binom{\1}{\2}"),
    (r"{1 \over 2}", r"\{([^{}]*)\\over(?![A-Za-z])([^{}]*)\}", r"\\frac{\1}{\2}"),
    (r"^5C_2", rf"(?<![\w)}}])(?:\{{\}})?[_^]{N} *\{{? *C{C} *_{N}", r"\\binom{\1}{\2}"),
    (r"C_5^2", rf"\bC *_{N} *\^{N}", r"\\binom{\1}{\2}"),
    (r"5C2, 5 choose 2", r"\b([0-9]+) *(?:C|choose) *([0-9]+)\b", r"\\binom{\1}{\2}"),
    (r"nCr(5, 2)", r"\bnCr\(([0-9]+), *([0-9]+)\)", r"\\binom{\1}{\2}"),
    (r"^5P_2", rf"(?<![\w)}}])(?:\{{\}})?[_^]{N} *\{{? *P{C} *_{N}", r"(\1!/(\1-\2)!)"),
    (r"5P2", r"\b([0-9]+)P([0-9]+)\b", r"(\1!/(\1-\2)!)"))]


def in_one_notation(text: str) -> str:
    for _, pattern, new in RULES:
        if pattern.search(text):  # most rules find nothing, and sub would read `new` first
            text = pattern.sub(new, text)
    return text
