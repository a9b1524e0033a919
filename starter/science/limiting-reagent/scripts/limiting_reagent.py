"""Amount of a product from amounts of reactants, for a balanced equation."""
import re
from collections import Counter


def atoms(formula):
    """The atoms of a formula such as Ca(OH)2."""
    stack = [Counter()]
    for name, opened, closed, number in re.findall(r"([A-Z][a-z]?)|(\()|(\))|(\d+)", formula):
        if name:
            last = Counter({name: 1})
            stack[-1] += last
        elif opened:
            stack.append(Counter())
        elif closed:
            last = stack.pop()
            stack[-1] += last
        else:
            for atom, count in last.items():
                stack[-1][atom] += count * (int(number) - 1)
    return stack[0]


def check(left, right, amounts, product, digits=3):
    """left, right: formula -> coefficient. amounts: reactant -> mol. The mol of the product."""
    def total(side):
        count = Counter()
        for formula, coefficient in side.items():
            for atom, number in atoms(formula).items():
                count[atom] += number * coefficient
        return count

    if total(left) != total(right):
        return "fault: the equation is not balanced"
    if set(amounts) != set(left) or product not in right:
        return "fault: missing information, an amount of every reactant, and a product of the reaction"
    turns = min(amounts[formula] / coefficient for formula, coefficient in left.items())
    return f"answer: {turns * right[product]:.{digits}g} mol" if turns > 0 else "fault: a reactant is missing"
