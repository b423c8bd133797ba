"""No long files and no long functions; ruff checks complexity, arguments and statements."""

import ast

from tracked import tracked

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def too_long(path: str, source: str) -> list[str]:
    """List what exceeds the limits in a file; decorators are not counted."""
    offenders = []
    lines = source.count("\n")
    if lines > MAX_FILE_LINES:
        offenders.append(f"{path}: {lines} lines")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                offenders.append(f"{path}:{node.lineno}: {node.name} has {lines} lines")
    return offenders


def function(lines: int) -> str:
    return "@decorated\ndef long():\n" + "    pass\n" * (lines - 1)


def test_limits_are_inclusive_and_nested_functions_and_methods_count():
    assert too_long("a.py", "\n" * 400) == []
    assert too_long("a.py", "\n" * 401) == ["a.py: 401 lines"]
    assert too_long("a.py", function(60)) == []
    assert too_long("a.py", function(61)) == ["a.py:2: long has 61 lines"]
    method = "class A:\n" + "".join(f"    {line}\n" for line in function(61).splitlines())
    assert too_long("a.py", method) == ["a.py:3: long has 61 lines"]
    assert too_long("a.py", method.replace("def", "async def")) == ["a.py:3: long has 61 lines"]


def test_files_and_functions_are_short():
    offenders = [line for path, source in tracked("*.py").items() for line in too_long(path, source)]
    advice = f"over {MAX_FILE_LINES} lines a file or {MAX_FUNCTION_LINES} a function; split by meaning:\n"
    assert not offenders, advice + "\n".join(offenders)
