"""Plain American English: words of `banned_words.txt` are not used, in text or in names."""

import re
from pathlib import Path

import pytest
from tracked import tracked

MAX_ALLOWED = 15
MAX_SHOWN = 100
CHECKED = (
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "CITATION.cff", "noxfile.py", "pyproject.toml"),
    *("docs", "examples", "catsdogs", "conf", "sweeps", "tests", "benchmarks", ".ci", ".github"),
    # Data, files of earlier versions, the lists themselves, and plotly.js.
    *(":!*.png", ":!*.npz", ":!*.csv", ":!*.json", ":!tests/golden/studies/[0-9]*", ":!tests/whole/*_words.txt"),
    ":!catsdogs/pages/plotly",
)


def read_lines(name):
    lines = Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line.strip() and not line.startswith("#")]


def compiled(entries):
    """Map patterns of words and parts of names to their replacements; words are divided by "_", space or a new line."""
    patterns = {}
    for entry in entries:
        pattern, instead = entry.split(" = ")
        pattern = pattern.replace(" ", r"(?:[ _]|\n[\s#*]*)")
        patterns[re.compile(rf"(?<![a-z])(?:{pattern})(?![a-z])", re.IGNORECASE)] = instead
    return patterns


def uses(path, text, words):
    """List the banned words of a file and of its path: the word, path with line, and a message; line 0 is the path."""
    lines = [path, *text.split("\n")]
    # Parts of CamelCase are words too.
    divided = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", "\n".join(lines))
    result = []
    for pattern, instead in words.items():
        for match in pattern.finditer(divided):
            number, word = divided.count("\n", 0, match.start()), " ".join(match[0].split())
            line = lines[number].strip()
            result.append((number, word, f"{path}: {line}", f"{path}:{number}: {word!r}, write: {instead}\n    {line}"))
    return [use[1:] for use in sorted(result, key=lambda use: use[0])]


@pytest.fixture(scope="module")
def in_repository():
    words = compiled(read_lines("banned_words.txt"))
    assert len(words) > 30
    assert all(words.values())
    return [use for path, text in tracked(*CHECKED).items() for use in uses(path, text, words)]


def test_words_are_found_in_text_names_and_paths():
    words = compiled(["wroth(ly)? = angry", "verily thus = so", "thou(?!_key) = you"])
    text = "He is_wroth2, beWrothNow, wrothful\n  and verily_thus\n# verily\n  # thus; thou_key stays, thou does not"
    found = uses("docs/Wrothly.md", text, words)
    assert [word for word, _, _ in found] == ["Wrothly", "wroth", "Wroth", "verily_thus", "verily # thus", "thou"]
    message = "docs/Wrothly.md:2: 'verily_thus', write: so\n    and verily_thus"
    assert found[3][1:] == ("docs/Wrothly.md: and verily_thus", message)


def test_no_banned_word_is_used(in_repository):
    allowed = read_lines("allowed_words.txt")
    banned = [message for _, where, message in in_repository if where not in allowed]
    assert not banned, f"{len(banned)} banned words:\n" + "\n".join(banned[:MAX_SHOWN])


def test_few_lines_are_allowed_and_each_is_needed(in_repository):
    allowed = read_lines("allowed_words.txt")
    assert len(allowed) == len(set(allowed)) <= MAX_ALLOWED
    assert set(allowed) <= {where for _, where, _ in in_repository}
