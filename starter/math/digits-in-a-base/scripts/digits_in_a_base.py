"""The base of a numeral, by trying all."""


def check(digits, value, largest=1000):
    """The only base in which these digits, the highest first, are the number `value`."""
    if not digits or min(digits) < 0 or len(digits) < 2:
        return "fault: at least two digits, none below 0"
    found = []
    for base in range(max(2, max(digits) + 1), largest + 1):
        number = 0
        for digit in digits:
            number = number * base + digit
        if number == value:
            found.append(base)
    if not found:
        return "fault: no base above every digit gives this value"
    return f"answer: {found[0]}" if len(found) == 1 else f"fault: several answers, {found[:3]}"
