"""Finds the text of a solution that is its answer. Every search is linear in the length of the text."""
from __future__ import annotations

import re

from ap.answers.replies import after_thoughts
from ap.answers.words import NUMBERS, number_in_front
from ap.files import writable

VERB = (  # between "the answer" and what it is
    r"(?:(?:is|was|are)(?: (?:given|found|calculated|determined|computed|shown|stated|reported))?"
    r"(?: (?:as|by|to be)\b)?"
    r"|equals|(?:must|should|would|will|can) (?:then |therefore )?be|becomes"
    r"|(?:comes|came|turns|turned|works|worked) (?:out )?(?:to be|to|as|at)|evaluates to|amounts to)\b"
    r"(?: (?:therefore|thus|then|simply|hence|indeed)\b)?[ \t]*:?")
LETTER = r"(?=(?:(?:option|choice) )?\(?[A-J]\)?[.*_ \t]*$)"  # an option letter, and nothing behind it on its line
SAID = re.compile(
    rf"(?i)(?:\b|_)(?:answer(?: to (?:the|this|your) \w+)?|option|choice|selection|result(?=[^\n]{{,60}}\Z))"
    rf"[\"']?[*_ \t]*(?:{VERB}|:+|[=-]*>|=)[*_\s]*|^[ \t*]*(?:final )?answer[ \t]+[-–—][ \t]+|^[ \t]*ans\b[.: \t]*"
    rf"|\b(?:option|choice|answer)\b[^\n.]{{,200}}? (?:is|are) (?-i:{LETTER})"
    r"|^[ \t]*+(?:#+|\*\*)?+[ \t*]*+(?:the )?(?:final )?answer[ \t*:]*\n(?:[-=]{3,}\n)?\s*"
    r"|(?<=[\s.!?)])####[ \t]*(?=[^\n]*\s*\Z)|^[ \t]*####[ \t]*"
    r"|(?:(?<=\n)|\A(?=A:(?: [^\s]+){3}))A(?:ns)?:[ \t]*(?=[^\n]*[0-9\\$][^\n]*\s*\Z)"
    rf"|\b(?:choose|pick|select|(?:corresponds to|matches|is|so|therefore) (?:the )?(?:option|choice)) (?-i:{LETTER})"
    rf"|^[*_ \t]*(?:the )?(?:final |correct )?answer[*_ \t]+(?-i:{LETTER})"
    r"|答案(?:[是为][:：]?|[:：])\s*|^答[:：]\s*|^(?:故|所以|因此)?选(?=[:：\s(（]*[A-J](?![A-Za-z]))[:：]?"
    r"|[<\[](?:final_)?answer[>\]]\s*|</(?:final_)?answer>\s*\Z", re.MULTILINE)
HINTS = ("ans", "option", "choice", "select", "result", "####", "a:", "choose", "pick", "答", "选")  # SAID has one
OPENED = re.compile(r"\$\$?|\\\[|\\\(|\\begin *\{([a-z*]+)\}")  # what a formula begins with
BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*(?:\{|(?=[0-9A-Za-z]))|\\.|[{}]", re.DOTALL)
JOINT = re.compile(  # between two boxes
    r"(?:[\s$,;]|\\(?:text|mathrm|quad|qquad|[ ,;()\[\]])|[{}]|\b(?:or|and|is|it|maybe|perhaps|possibly|also|even)\b"
    r"|[A-Za-z] *=)*")
BOLD = re.compile(r"\*\*([^*:\n]+)\*\*(?!:)[^*\n]*\Z")
FORMULA = re.compile(r"\$\$?([^$]+)\$\$?|\\\(((?:(?!\\\().)+?)\\\)|\\\[((?:(?!\\\[).)+?)\\\]", re.DOTALL)
HEDGE = re.compile(
    r"(?i)\b(?:or|either|not|no|maybe|perhaps|might|could|possibly|probably|approximately|about|guess|wrong"
    r"|incorrect|never|false|opposite|extraneous|rejected|invalid|impossible|cannot)\b|[?]|n't|不|可能|大约|假设|如果|若|设")
VAGUE = re.compile(  # a sentence with one of these does not say that the number in it is the answer
    r"(?i)\b(?:than|least|most|under|over|up|between|around|almost|nearly|roughly|some|if|unless|except"
    r"|but|case|step|begins?|starts?|from|to(?=.*[0-9])|first|suppose|assume|let|note|given|correct|accept|gold"
    r"|reference|output|grader|previous|ignore|mark|negative)\b")
SUPPOSED = re.compile(  # the same, of a sentence with a calculation
    r"(?i)\b(?:if|unless|except|but|suppose|assume|let|given|accept|gold|reference|output|grader|previous|ignore"
    r"|mark)\b")
REASON = re.compile(r",? \(?\b(?:which|since|because)\b.*")  # behind what is said to be the answer
DENIED = re.compile(r"(?i)\b(?:wrong|incorrect|false|opposite|negative|inverse|not)\b[\w ]{,20}$")  # "wrong answer: 4"
TAKEN_BACK = re.compile(r"(?i)\b(?:actually|wait|correction|oops)\b")  # "The answer is 4. Actually, it is 5."
AND = re.compile(r"\s*(?:[,，、]|,? *(?:and|or))\s*")
CONCLUSION = re.compile(
    r"(?i)(?:and )?(?:so|this means|that means|thus|therefore|hence|in total|altogether|(?:the )?total|finally)\b")
ALTOGETHER = re.compile(r"\b(?:altogether|in total|in all|a total of)\b")
SENTENCE = re.compile(r"(?<=[^.])[.!][*_]*\s+|\n+|。|```")
CALCULATOR = re.compile(r"<<[-+*/.()= 0-9%,$]*>>")
BESIDE = re.compile(r"[0-9]|(?<!\A )\b(?:is|are|equals?)\b")  # behind the last formula of a sentence: more of it
CONDITION = re.compile(  # the next formula is one, or what is supposed
    r"(?i)\b(?:for|when|whenever|if|where|provided|unless|while)(?: all| any| every)? *$"
    r"|^(?:let|suppose|assume)\b[^$]*$")
# Between two formulas of a sentence: the second follows from the first, or says what the first is
GIVES = re.compile(
    r"(?i)\b(?:so|then|thus|therefore|hence|get|have|obtain|find|see|yields?|gives?|giving|gave|conclude|implies|means"
    r"|that|following)\b|得|即|所以|因此|故|为|是")
IS = re.compile(r"^(?!.*(?:,|;|:|\band\b)).*\b(?:is|are|equals?|be|was|to|of)\b", re.DOTALL)
BEHIND_OUTPUT = re.compile(r"\n```[ \t]*\n+[^\n]*\Z")  # the one line behind what a program printed
VARIABLE = re.compile(r"[0-9][A-Za-z]\b|(?<![\w'’])(?!x (?<=[0-9] x )\$?[0-9])[B-HJ-Zb-z](?![\w'’])")  # but not 8 x 3
ONE_NAME = re.compile(r"(?<![\w+*/^-])(?<![-+*/^] )[A-Za-z] *$")
CALCULATED = re.compile(r"[0-9)%] *[-+*/x×÷–] *[$(]?[0-9]|/ *[0-9]|[0-9] [a-z]+ *[-+*/x×÷–] ")  # left of an "="
LIST_SIGN = re.compile(r"^(?:\[[^\]\n]*\] *|[0-9]+\. +|[-*] +)*")
TAIL = re.compile(r"(?!.*=)(?:(?! is | are ).)* (?:is|are|equals) ((?:\\?[$€£])? ?-?[0-9][^=]*)$")
NUMBER = re.compile(
    r"(?:\\?\$|[€£])? ?(?<![\w.])-?[0-9][0-9,]*(?:\.[0-9]+)?(?:/[0-9]+)?%?"
    r"(?: (?!(?:more|less|of|in|on|at|for|to|by|from|with|and|each|per|when|as)\b)[^\W\d]+|(?![\w.,/]*[0-9A-Za-z]))")


def extract_answer(text: str) -> str | None:
    """The final answer of a solution, or None: a box, else what is said to be the answer, else the last formula."""
    text = behind_thinking(text)
    return marked(text) or last_formula(text)


def behind_thinking(text: str) -> str:
    """The text outside of the hidden thoughts; the whole text when nothing else is there."""
    return after_thoughts(text) or text


def whole_text(text: str) -> str:
    """Without halves of surrogate pairs, which no file and no other process can take, and without the calculations
    that GSM8K's solutions hold in double brackets: 48+24=<<48+24=72>>72."""
    return CALCULATOR.sub("", writable(text))


def marked(text: str) -> str | None:
    r"""The answer that the solution itself marks: the last balanced box, else the last "Answer:", "####" or <answer>.

    Boxes with nothing but commas, "or" and "and" between them are one list. "" where a mark has nothing behind it that
    counts, so that nothing else does; None: there is no mark.
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
        return answer
    found = _marks(text)
    said = _undenied(found, text)
    if not said:
        return "" if found or "\\boxed" in text else None
    if said[-1][0].startswith("</"):
        end = said.pop().start()
        return text[said[-1].end():end].strip() if said else ""
    while len(said) > 1 and re.search(r"(?i)\bor\b[\w\s]{,20}$", text[max(0, said[-1].start() - 30):said[-1].start()]):
        said.pop()  # "the answer is 4 or the answer is 5"
    behind = text[said[-1].end():]
    end = _end_of_formula(behind)
    sentence, *rest = re.split(r"(?<=[^.])\.[*_]*\s", behind[end:].partition("\n")[0])
    if TAKEN_BACK.search(" ".join(rest)):
        return ""
    sentence = behind[:end] + sentence
    if sentence.count("{") < sentence.count("}"):  # \text{Answer: } 5; {"answer": 5}
        sentence = sentence.strip(" \t}")
    sentence = REASON.sub("", sentence) if not HEDGE.search(sentence) else sentence
    return sentence.lstrip(" \t*_").rstrip(" \t*_.")


def _marks(text: str) -> list[re.Match]:
    """Every "answer is" and the like. HINTS first, so that a text of a million characters costs nothing."""
    folded = text.casefold()
    return list(SAID.finditer(text)) if any(hint in folded for hint in HINTS) else []


def _undenied(marks: list[re.Match], text: str) -> list[re.Match]:
    """Those that the words before them on their line do not deny."""
    return [one for one in marks
            if not DENIED.search(text[max(0, one.start() - 40):one.start()].rpartition("\n")[2])]


def _end_of_formula(text: str) -> int:
    r"""Where a formula ends that begins on the first line of a text and goes on over others; 0 where none does."""
    line = text.partition("\n")[0]
    for opened in OPENED.finditer(line):
        closing = {"\\[": "\\]", "\\(": "\\)"}.get(opened[0], opened[0])
        closing = rf"\end{{{opened[1]}}}" if opened[1] else closing
        if line.find(closing, opened.end()) < 0 and (opened[0] != "$" or not line[opened.end():].strip()):
            return text.find(closing, len(line)) + len(closing) if text.find(closing, len(line)) >= 0 else 0
        if opened[0] != "$":
            return 0
    return 0


def remainder(text: str) -> str:
    """All that stands behind the last "answer is" and the like: an answer may go on over several paragraphs."""
    said = _undenied(_marks(text), text)
    return text[said[-1].end():] if said else ""


def concluded(text: str) -> str | None:
    """What stands for the answer in a text that is no formula as a whole and marks none: the last formula or bold text,
    else what its last sentence says. A formula before the last sentence does not count where that one has a number."""
    last = SENTENCE.split(text[-400:].strip())[-1]
    told_first = re.search("[0-9]", last) and not re.search(r"[$\\]", last) and "\n" in text.strip()
    if told_first:
        return told(text) or (None if CONCLUSION.match(last) else last_formula(text))
    return last_formula(text) or told(text)


def last_formula(text: str) -> str | None:
    """The last formula or bold text, unless its line hedges or it is one of several that say the answer together."""
    if bold := BOLD.search(text, max(0, len(text) - 300)):
        return None if HEDGE.search(text[text.rfind("\n") + 1:]) else bold[1].strip() or None
    formulas = list(FORMULA.finditer(text))
    if not formulas:
        return None
    last = [formulas.pop()]
    while formulas and AND.fullmatch(text[formulas[-1].end():last[0].start()]):  # $1$, $2$ and $3$
        last.insert(0, formulas.pop())
    before, behind = text[text.rfind("\n", 0, last[0].start()) + 1:last[0].start()], text[last[-1].end():]
    if CONDITION.search(before) or HEDGE.search(before) or HEDGE.search(behind):
        return None
    if BESIDE.search(SENTENCE.split(behind)[0]):
        return None
    between = text[formulas[-1].end():last[0].start()] if formulas else ""
    if formulas and not re.search(r"[^\W\d_]{2}", between):
        return None
    if formulas and not (SENTENCE.search(between) or GIVES.search(between) or IS.search(between)
                         or re.search(r"(?i)\b(?:since|because|as|with|from)\b", before) and IS.search(between[1:])):
        return None
    return ", ".join(next(group for group in one.groups() if group).strip() for one in last) or None


COUNTED = re.compile(rf"(?i)\b(?:{'|'.join(word for word in NUMBERS if word not in ('zero', 'one'))})\b")
IN_CHINESE = re.compile(r"[\u4e00-\u9fff，：、 ]*?(-?[0-9][0-9.,/]*%?)[\u4e00-\u9fff]{0,6}")


def told_in_words(last: str) -> str | None:
    """The number in words of a sentence, if there is one: "Two people accept", "So they need eighteen boxes"."""
    first = COUNTED.search(last)
    found = number_in_front(last[first.start():]) if first and not re.search("[0-9$\\\\]", last) else None
    if not found or COUNTED.search(found[1]) or re.match(r"(?:of|more|less|other|another|and)\b", found[1]):
        return None
    return str(found[0]) if re.match(r"[A-Za-z]+(?: [A-Za-z]+)*$", found[1]) else None


def told(text: str) -> str | None:
    """The number that the last sentence says, with the word behind it: its only number, what a calculation in it ends
    with, or what it says that something is. It must conclude or calculate, or be the only sentence."""
    sentences = [one for one in SENTENCE.split(text[-400:].strip()) if one.strip()] or [""]
    last = re.sub(r"\$([A-Za-z])\$", r"\1", LIST_SIGN.sub("", sentences[-1])).rstrip(". ")
    first, *others = last.split("=")
    calculates = re.search(r"[^\W\d_]{2}", first) and others and CALCULATED.search("=".join([first, *others[:-1]]))
    concludes = CONCLUSION.match(last) or calculates
    alone = len(sentences) == 1 or BEHIND_OUTPUT.search(text[-400:].rstrip())
    if HEDGE.search(last) or not (alone or concludes or ALTOGETHER.search(last)):
        return None
    if in_chinese := IN_CHINESE.fullmatch(last):
        return in_chinese[1]
    if in_words := told_in_words(last):
        return in_words
    vague = (SUPPOSED if calculates else VAGUE).search(last) or re.search("[<>|≤≥]", last) or len(last.split()) > 40
    if vague or calculates and "\\" in last or not (concludes or re.match(r"(?:[^\W\d_]+[,:]? +){2}", last)):
        return None
    if others and (VARIABLE.search(ONE_NAME.sub("", first)) or not calculates and re.search("[0-9]", first)):
        return None
    if others and not re.search(r"[,;]\s|\band\b", "".join(others[:-1])):
        last = others[-1].lstrip()
        if not re.match(r"(?:\\?[$€£])? ?-?[0-9.]", last):
            return None
    elif tail := TAIL.match(last):
        last = tail[1]
    found = NUMBER.search(last)
    return found[0].strip() if found and len(re.findall(r"[0-9][0-9,.]*(?:/[0-9]+)?", last)) == 1 else None
