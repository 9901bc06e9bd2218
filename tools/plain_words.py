"""Checks the language of the project: words that docs/glossary.md replaces, and local names that name nothing.

Run `python tools/plain_words.py` to check (exit code 1 lists each place), or `--figures` to print the measured shares.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

PACKAGES = ("academy", "tasks", "flows")
LARGEST_SHARE = 0.03
"""Share of the local names that may be pronouns or participles."""

WORDS = {
    r"\bof record\b": "official",
    (
        r"(?<!here )\bis no (?!longer\b|more\b|different\b|other\b|such\b|need\b|one\b)(?:[a-z]+ )?[a-z]+\b"
    ): "is not a ...",
    r"\bare no (?!longer\b|more\b)[a-z]+": "are not ...",
    r"\b(?:is|are|was|were|be|been) told\b": "is shown, is logged",
    r"\b[Tt]old (?:in|by|beside|of|only|after|at|about)\b": "shown, logged, stopped early",
    r"\bonly told\b": "informational",
    r"\btells\b": "shows, says, lists",
    r"\b[Mm]end(?:s|ed|ing)?\b": "fix",
    r"\bof at least [\d{]": "(minimum N)",
    r"\bweights of [\d{][^ ]* bits?\b": "N-bit weights",
    r"\bgoes? back to\b": "rolls back to",
    r"\bwent back to\b": "rolled back to",
    r"\b[Ww]hoever\b": "anyone who, the user who",
    r"\bfits nowhere\b": "does not fit on any device",
    r"\b[Hh](?:old|olds|eld) an? examination": "run an examination",
    r"\b[Tt](?:ake|akes|aken|ook) away\b": "remove",
    r"\b[Ll]eave(?:s)? out\b|\b[Ll]eft out\b": "omit, skip",
    r"\b[Pp]rocessors\b": "CPUs",
    r"\b(?:a|the|better|worse) stand-ins?\b": "simulated player",
    r"\bis (?:not )?alive\b": "passes the self-check, is running",
    r"\b(?:rung|ladder)s?\b": "fallback step",
    r"\bsuccession\b": "carry out (a verdict)",
    r"\bworkplace\b": "home",
    r"\bbouts?\b": "examination",
    r"\bliveness\b": "self-check",
    r"\bquotations\b": "text overlap",
    r"\bnearness\b": "similarity",
    r"\bof (?:its|their|your|our) own making\b": "own",
    r"\b(?:somebody|nobody|everybody)(?:'s)?\b": "someone, a user, no one",
    r"\bfor ever\b": "forever, permanently",
    r"\bthe house\b": "the project",
    r"\bas ever\b": "as always",
    r"\bwhat (?:mends|became of|came of)\b": "the fix, the result of",
    r"\b(?:is|are|was|were) asked of\b": "is sent to",
}
"""Pattern -> what to write instead. Checked in strings, comments, docstrings and Markdown."""

PRONOUNS = frozenset(
    [
        "one",
        "ones",
        "other",
        "others",
        "this",
        "that",
        "these",
        "those",
        "it",
        "its",
        "them",
        "they",
        "both",
        "each",
        "such",
        "same",
        "what",
        "who",
        "whom",
        "which",
        "mine",
        "ours",
        "own",
        "theirs",
        "yours",
        "another",
        "either",
        "neither",
        "nobody",
        "somebody",
        "everybody",
        "nothing",
        "something",
        "anything",
        "everything",
        "here",
        "there",
        "again",
        "more",
        "most",
        "least",
        "less",
        "enough",
        "elsewhere",
    ]
)
IRREGULAR = frozenset(
    [
        "found",
        "said",
        "told",
        "given",
        "known",
        "held",
        "kept",
        "left",
        "made",
        "sent",
        "taken",
        "written",
        "drawn",
        "shown",
        "seen",
        "meant",
        "spent",
        "lost",
        "gone",
        "done",
        "begun",
        "chosen",
        "broken",
        "hidden",
        "built",
        "thrown",
        "heard",
        "grown",
        "fallen",
        "forgotten",
        "understood",
        "bound",
        "caught",
        "come",
        "became",
        "beaten",
        "dealt",
        "drunk",
        "eaten",
        "fed",
        "felt",
        "fought",
        "got",
        "laid",
        "led",
        "lent",
        "lit",
        "paid",
        "proven",
        "rung",
        "sold",
        "sought",
        "sung",
        "stood",
        "stolen",
        "stuck",
        "struck",
        "swept",
        "sworn",
        "taught",
        "thought",
        "torn",
        "woken",
        "worn",
        "won",
        "wound",
    ]
)
NOT_PARTICIPLES = frozenset(
    [
        "seed",
        "speed",
        "feed",
        "need",
        "embed",
        "shed",
        "bed",
        "red",
        "reed",
        "weed",
        "deed",
        "breed",
        "creed",
        "greed",
        "unused",
    ]
)
EXEMPT = ("tools/plain_words.py", "docs/log.md", "docs/glossary.md", "CHANGELOG.md", "tests/topics.py")
EXEMPT_FOLDERS = ("docs/design/", "examples/", "academy/models/seed/")


def names_nothing(name: str) -> bool:
    """Whether a local name is a pronoun or a participle instead of a noun."""
    word = name.strip("_")
    if word in PRONOUNS or word in IRREGULAR:
        return True
    return word.endswith("ed") and len(word) > 3 and "_" not in word and word not in NOT_PARTICIPLES


def local_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield (name, line) of each variable that a function of a module binds; its parameters are not among them."""
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id, node.lineno
            elif isinstance(node, ast.ExceptHandler) and node.name:
                yield node.name, node.lineno


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of what people read in a file: strings and comments of code, lines of prose."""
    content = path.read_text(encoding="utf-8")
    if path.suffix != ".py":
        in_output = False
        for number, line in enumerate(content.splitlines(), start=1):
            if line.startswith("```"):
                in_output = line == "```console"
            if not in_output:  # what a command printed may quote a lesson
                yield number, line
        return
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type in (tokenize.STRING, tokenize.COMMENT):
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line


def tracked(*patterns: str) -> list[Path]:
    """Files of the checkout that match, without those that keep old words on purpose."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [
        Path(name)
        for name in sorted(set(listed))
        if name not in EXEMPT and not name.startswith(EXEMPT_FOLDERS) and Path(name).is_file()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--figures", action="store_true", help="print the figures and exit with 0")
    parser.add_argument("paths", nargs="*", help="check these files or folders only")
    arguments = parser.parse_args()
    patterns = arguments.paths or [*PACKAGES, "tests", "bench", "README.md", "docs", "prefect.yaml", "Makefile"]
    readable = [path for path in tracked(*patterns) if path.suffix in (".py", ".md", ".yaml", ".jinja", "")]
    rules = [(re.compile(pattern), advice) for pattern, advice in WORDS.items()]
    places: list[str] = []
    lines = 0
    for path in readable:
        lines += len(path.read_text(encoding="utf-8").splitlines())
        for number, line in texts(path):
            places += [
                f"{path}:{number}: {match[0]!r}: write {advice}"
                for rule, advice in rules
                for match in rule.finditer(line)
            ]
    names: Counter[bool] = Counter()
    unclear: Counter[str] = Counter()
    where: dict[str, list[str]] = {}
    for path in readable:
        if path.suffix == ".py" and path.parts[0] in PACKAGES:
            for name, number in sorted(set(local_names(ast.parse(path.read_text(encoding="utf-8"))))):
                names[names_nothing(name)] += 1
                if names_nothing(name):
                    unclear[name] += 1
                    where.setdefault(name, []).append(f"{path}:{number}")
    share = names[True] / max(1, names.total())
    print(f"{len(places)} words to replace in {lines} lines ({1000 * len(places) / max(1, lines):.1f} per 1,000)")
    print(f"{names[True]} of {names.total()} local names are pronouns or participles ({100 * share:.1f} %)")
    if arguments.figures:
        print(", ".join(f"{name} {count}" for name, count in unclear.most_common(40)))
        return 0
    if arguments.paths or share > LARGEST_SHARE:
        places += [f"{place}: {name}: name the value" for name, found_at in sorted(where.items()) for place in found_at]
    print("\n".join(places))
    return 1 if places or share > LARGEST_SHARE else 0


if __name__ == "__main__":
    sys.exit(main())
