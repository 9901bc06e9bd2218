"""The chat tasks. Each function draws one question with its answer; its name is stored with the chat."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

from academy.models.seed.make.words import Words

REPEAT = (
    "Repeat the word: {}",
    "Repeat this word: {}",
    "Say {}",
    "Say the word {}.",
    'Repeat "{}".',
    "Write {} again.",
    "Please repeat: {}",
    "Echo {}",
    "Copy the word {}.",
    "Quote this: {}",
    "Answer with the word {}.",
    "Repeat after me: {}",
    "Print {}.",
    'The word is "{}". Which word is it?',
    "Type the word {} and nothing else.",
)
REPEAT_UNSEEN = (
    "Your answer is the word {} and nothing more.",
    "Give me back {}.",
    "I say {}, you say the same:",
    "{} is what you should reply.",
)
ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")


def task_repeat(w: Words) -> tuple[str, str]:
    """Repeat one word."""
    word = w.any()
    return w.rng.choice(REPEAT).format(word), word


def task_line(w: Words, low: int = 2, high: int = 0) -> tuple[str, str]:
    """Copy a line of several words."""
    line = w.rng.choice((" ", " ", ", ", " / ")).join(w.some(low, high or w.rng.choice((3, 6, 14))))
    return w.rng.choice(
        (
            "Repeat the words: {}",
            "Copy this line: {}",
            "Repeat: {}",
            "Say: {}",
            "Write this again:\n{}",
            "Copy exactly.\n{}",
            'Quote the line "{}".',
        )
    ).format(line), line


def task_long(w: Words) -> tuple[str, str]:
    """Copy a long line: the strongest signal that copying helps."""
    return task_line(w, 8, 22)


def task_quote(w: Words) -> tuple[str, str]:
    """Repeat a word in another form: in quotes, in brackets, as an option, twice."""
    word, style = w.any(), w.rng.randrange(6)
    prompt, answer = (
        (f"Put {word} in double quotes.", f'"{word}"'),
        (f"Put {word} in brackets.", f"({word})"),
        (f"Write {word} as an option.", f"--{word}"),
        (f"Say {word} twice.", f"{word} {word}"),
        (f"Write {word} in capitals.", word.upper()),
        (f"Put a star before {word}.", f"*{word}"),
    )[style]
    return prompt, answer


def task_order(w: Words) -> tuple[str, str]:
    """Reverse, first, last, n-th."""
    words = w.some(2, 2) if w.rng.random() < 0.4 else w.some(3, 6)
    line = w.rng.choice((" ", ", ")).join(words)
    kind = w.rng.randrange(4)
    if len(words) == 2 and kind < 2:
        prompt = ("Swap the two: {} {}", "Say in reverse order: {} {}", "Turn around: {}, {}")[w.rng.randrange(3)]
        return prompt.format(*words), (", " if "," in prompt else " ").join(reversed(words))
    if kind == 0:
        return f"What is the first word of: {line}", words[0]
    if kind == 1:
        return f"What is the last word of: {line}", words[-1]
    if kind == 2:
        place = w.rng.randrange(len(words))
        return f"What is the {ORDINALS[place]} word of: {line}", words[place]
    place = w.rng.randrange(len(words) - 1)
    return f"Which word comes after {words[place]} in: {line}", words[place + 1]


def task_lookup(w: Words) -> tuple[str, str]:
    """Find the value that belongs to a key."""
    count = w.rng.randint(2, 6)
    keys, values = w.some(count, count, w.plain), w.some(count, count)
    place, style = w.rng.randrange(count), w.rng.randrange(4)
    form, glue = (("{}={}", " "), ("{}: {}", "\n"), ("{} = {}", "; "), ("- {} is {}", "\n"))[style]
    table = glue.join(form.format(key, value) for key, value in zip(keys, values, strict=True))
    question = w.rng.choice(
        ("Which value belongs to {}?", "What is {}?", "Give the value of {}.", "{}?", "Look up {}.")
    ).format(keys[place])
    return (f"{table}\n{question}" if w.rng.random() < 0.7 else f"{question}\n{table}"), values[place]


def task_recall(w: Words) -> tuple[str, str]:
    """State one thing, ask for it."""
    key, value = w.plain(), w.any()
    return w.rng.choice(
        (
            "Remember {0}={1}. What is {0}?",
            "The {0} is {1}. What is the {0}?",
            "Set {0} to {1}. What is {0} now?",
            "Let {0} be {1}. Tell me {0}.",
            "My {0} is called {1}. How is my {0} called?",
        )
    ).format(key, value), value


def task_form(w: Words) -> tuple[str, str]:
    """Fill a short form from a sentence: the answer keeps the values and changes the text around them."""
    a, b, c = w.plain(), w.any(), w.any()
    return w.rng.choice(
        (
            (f"Set {a} to {b}.", f"{a}={b}"),
            (f"Call {a} with {b}.", f"{a}({b})"),
            (f"Call {a} with {b} and {c}.", f"{a}({b}, {c})"),
            (f"Use the option {a} with {b}.", f"--{a}={b}"),
            (f"Write {b} and {c} as a list.", f"[{b}, {c}]"),
            (f"Copy {b} to {c}.", f"cp {b} {c}"),
            (f"Import {a}.", f"import {a}"),
            (f"From {a} import {b}.", f"from {a} import {b}"),
            (f"Make a tag {a} around {b}.", f"<{a}>{b}</{a}>"),
            (f"{a} is {b} and {c} is the rest.", f"{a}: {b}\nrest: {c}"),
        )
    )


def task_span(w: Words) -> tuple[str, str]:
    """A question about a sentence; the answer is a span of it."""
    who, where, thing, other, count = w.name(), w.name(), w.plain(), w.plain(), w.rng.randint(2, 99)
    sentence, pairs = w.rng.choice(
        (
            (
                f"{who} keeps the {thing} in {where}.",
                (("Who keeps the {t}?", who), ("Where is the {t}?", where), ("What does {w} keep?", f"the {thing}")),
            ),
            (
                f"In {where} the {thing} is sold by {who} for {count} coins.",
                (("Who sells the {t}?", who), ("How many coins is the {t}?", str(count)), ("Where is it sold?", where)),
            ),
            (
                f"The {thing} of {who} needs {count} {other} every day.",
                (
                    ("How many {o} does it need?", str(count)),
                    ("Whose {t} is it?", who),
                    ("What does the {t} need?", f"{count} {other}"),
                ),
            ),
            (
                f"{who} wrote the {thing} before {where} read the {other}.",
                (("Who wrote the {t}?", who), ("Who read the {o}?", where), ("What did {p} read?", f"the {other}")),
            ),
            (
                f"The function {thing} takes {other} and returns {who}.",
                (
                    ("What does {t} take?", other),
                    ("What does {t} return?", who),
                    ("Which function returns {w}?", thing),
                ),
            ),
        )
    )
    question, answer = w.rng.choice(pairs)
    question = question.format(w=who, p=where, t=thing, o=other)
    return (f"{sentence} {question}" if w.rng.random() < 0.6 else f"{question}\n{sentence}"), answer


TASKS: tuple[tuple[Callable[[Words], tuple[str, str]], int], ...] = (
    (task_repeat, 22),
    (task_line, 22),
    (task_long, 27),
    (task_quote, 6),
    (task_order, 12),
    (task_lookup, 12),
    (task_recall, 8),
    (task_form, 10),
    (task_span, 8),
)
SYSTEMS = ("Answer in one line.", "You copy what you are given.", "Answer with words of the question.", "Be brief.")


def signatures(text: str) -> Iterator[tuple[str, str]]:
    """Docstring -> signature pairs of one source file."""
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            summary = (ast.get_docstring(node) or "").split("\n\n")[0].replace("\n", " ").strip()
            signature = f"def {node.name}({ast.unparse(node.args)})"
            if 20 <= len(summary) <= 200 and len(signature) <= 120:
                yield f"Write the signature of a function.\n{summary}", signature
