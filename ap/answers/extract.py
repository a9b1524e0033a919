"""Finds the text of a solution that is its answer. Every search is linear in the length of the text."""
from __future__ import annotations

import re

SAID = re.compile(
    r"(?i)\b(?:answer(?: to (?:the|this|your) \w+)?|option|choice|result(?=[^\n]{,60}\Z))[\"']?[*_ \t]*"
    r"(?:(?:is|equals|(?:must|should|would) be|comes out to)\b"
    r"(?: (?:therefore|thus|then|simply|hence|indeed)\b)?[ \t]*:?|:|[=-]*>|=)[*_\s]*|^[ \t]*ans\b[.: \t]*"
    r"|^[ \t]*+(?:#+|\*\*)?+[ \t*]*+(?:the )?(?:final )?answer[ \t*:]*\n(?:[-=]{3,}\n)?\s*"
    r"|^[ \t]*####[ \t]*|\b(?:choose|pick|select) (?=\(?[A-J]\)?\.?$)"
    r"|答案(?:是|为|[:：])\s*|^(?:故|所以|因此)?选[:：]?"
    r"|[<\[](?:final_)?answer[>\]]\s*|</(?:final_)?answer>\s*\Z", re.MULTILINE)
BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*(?:\{|(?=[0-9A-Za-z]))|\\.|[{}]", re.DOTALL)
JOINT = re.compile(  # between two boxes
    r"(?:[\s$,;]|\\(?:text|mathrm|quad|qquad|[ ,;()\[\]])|[{}]|\b(?:or|and|is|it|maybe|perhaps|possibly|also|even)\b"
    r"|[A-Za-z] *=)*")
BOLD = re.compile(r"\*\*([^*:\n]+)\*\*(?!:)[^*\n]*\Z")
FORMULA = re.compile(r"\$\$?([^$]+)\$\$?|\\\(((?:(?!\\\().)+?)\\\)|\\\[((?:(?!\\\[).)+?)\\\]", re.DOTALL)
HEDGE = re.compile(
    r"(?i)\b(?:or|either|not|no|maybe|perhaps|might|could|possibly|probably|approximately|about|guess|wrong"
    r"|incorrect|never|false|opposite|extraneous|rejected|invalid|impossible|cannot)\b|[?]|n't")
VAGUE = re.compile(  # a sentence with one of these does not say that the number in it is the answer
    r"(?i)\b(?:than|least|most|under|over|up|between|around|almost|nearly|roughly|some|if|unless|except"
    r"|but|case|step|begins?|starts?|from|to(?=.*[0-9])|first|suppose|assume|let|note|given|correct|accept|gold"
    r"|reference|output|grader|previous|ignore|mark|negative)\b")
REASON = re.compile(r",? \(?\b(?:which|since|because)\b.*")  # behind what is said to be the answer
DENIED = re.compile(r"(?i)\b(?:wrong|incorrect|false|opposite|negative|inverse)\b[\w ]{,20}$")  # "wrong answer: 4"
TAKEN_BACK = re.compile(r"(?i)\b(?:actually|wait|correction|oops)\b")  # "The answer is 4. Actually, it is 5."
AND = re.compile(r"\s*(?:,|,? *(?:and|or))\s*")
CONCLUSION = re.compile(r"(?i)(?:so|thus|therefore|hence|in total|altogether|the total|finally)\b")
NUMBER = re.compile(
    r"(?:\\?\$|[€£])? ?(?<![\w.])-?[0-9][0-9,]*(?:\.[0-9]+)?(?:/[0-9]+)?%?"
    r"(?: (?!more\b|less\b)[^\W\d]+|(?![\w.,/]*[0-9A-Za-z]))")


def extract_answer(text: str) -> str | None:
    """The final answer of a solution, or None: a box, else what is said to be the answer, else the last formula."""
    text = behind_thinking(text)
    return marked(text) or last_formula(text)


def after_thoughts(reply: str) -> str:
    """The reply behind the model's hidden thoughts; all of it where there are none."""
    return reply.rpartition("</think>")[2]


def behind_thinking(text: str) -> str:
    """The text behind the hidden thoughts; the whole text when nothing follows them."""
    return after_thoughts(text) or text


def marked(text: str) -> str | None:
    r"""The answer that the solution itself marks: the last balanced box, else the last "Answer:", "####" or <answer>.

    Boxes with nothing but commas, "or" and "and" between them are one list.
    """
    opened, boxes = [], []
    for token in BOX.finditer(text):
        if len(token[0]) > 2 and token[0][-1] != "{":  # \boxed5: one character, and nothing that closes it
            boxes.append((token.start(), token.end(), token.end() + 1, token.end() + 1))
        elif token[0][-1] == "{" and token[0] != r"\{":
            opened.append((len(token[0]) > 1, token.start(), token.end()))
        elif token[0] == "}" and opened:
            is_box, start, inside = opened.pop()
            if is_box:
                boxes.append((start, inside, token.start(), token.end()))
    if boxes:
        boxes.sort()
        start, inside, end, _ = boxes.pop()
        answer = text[inside:end].strip()
        while boxes and boxes[-1][3] <= start:
            before, inside, end, after = boxes.pop()
            between = text[after:start]
            if not (1 < start - after < 40 and JOINT.fullmatch(between) and re.search(",|;|or|and", between)):
                break
            answer = f"{text[inside:end].strip()}{' or ' if 'or' in between else ', '}{answer}"
            start = before
        return answer or None
    said = [one for one in SAID.finditer(text) if not DENIED.search(text[max(0, one.start() - 40):one.start()])]
    if said and said[-1][0].startswith("</"):
        end = said.pop().start()
        return text[said[-1].end():end].strip() or None if said else None
    while len(said) > 1 and re.search(r"(?i)\bor\b[\w\s]{,20}$", text[max(0, said[-1].start() - 30):said[-1].start()]):
        said.pop()  # "the answer is 4 or the answer is 5"
    if not said:
        return None
    sentence, *rest = re.split(r"(?<=[^.])\.\s", text[said[-1].end():].partition("\n")[0])
    if TAKEN_BACK.search(" ".join(rest)):
        return None
    if sentence.count("{") < sentence.count("}"):  # \text{Answer: } 5; {"answer": 5}
        sentence = sentence.strip(" \t}")
    sentence = REASON.sub("", sentence) if not HEDGE.search(sentence) else sentence
    return sentence.lstrip(" \t*_").rstrip(" \t*_.") or None


def says_so(text: str) -> bool:
    """Is there a box or an "Answer:", so that nothing else counts, even when it is empty?"""
    return "\\boxed" in text or bool(SAID.search(text))


def last_formula(text: str) -> str | None:
    """The last formula or bold text, unless its line hedges or no words separate it from a formula before it."""
    if bold := BOLD.search(text, max(0, len(text) - 300)):
        return None if HEDGE.search(text[text.rfind("\n") + 1:]) else bold[1].strip() or None
    formulas = list(FORMULA.finditer(text))
    if not formulas:
        return None
    last = [formulas.pop()]
    while formulas and AND.fullmatch(text[formulas[-1].end():last[0].start()]):  # $1$, $2$ and $3$
        last.insert(0, formulas.pop())
    listed = formulas and not re.search("[A-Za-z]{2}", text[formulas[-1].end():last[0].start()])
    before, behind = text[text.rfind("\n", 0, last[0].start()) + 1:last[0].start()], text[last[-1].end():]
    if listed or HEDGE.search(before) or HEDGE.search(behind):
        return None
    return ", ".join(next(group for group in one.groups() if group).strip() for one in last) or None


def told(text: str) -> str | None:
    """The only number of the last sentence, with the word behind it, if this concludes or is the only sentence."""
    sentences = re.split(r"(?<=[^.])[.!]\s+|\n+", text[-400:].strip())
    last = sentences[-1].rstrip(". ")
    numbers = re.findall(r"[0-9][0-9,.]*(?:/[0-9]+)?", last)
    if len(numbers) != 1 or HEDGE.search(last) or VAGUE.search(last) or len(last.split()) > 20:
        return None
    if len(sentences) > 1 and not CONCLUSION.match(last) or not re.match(r"(?:[A-Za-z]+,? +){2}", last):
        return None
    found = NUMBER.search(last)
    return found[0].strip() if found else None
