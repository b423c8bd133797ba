"""No long files and no long functions; ruff checks complexity, arguments and statements."""

import ast

from tracked import tracked

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def too_long(path, source):
    """List what exceeds the limits in a file; decorators are not counted."""
    sizes = [(path, source.count("\n"), MAX_FILE_LINES)]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            sizes.append((f"{path}:{node.lineno}: {node.name}", lines, MAX_FUNCTION_LINES))
    return [f"{name} has {lines} lines" for name, lines, limit in sizes if lines > limit]


def test_limits_are_inclusive_and_nested_functions_and_methods_count():
    assert too_long("a.py", "\n" * 400) == []
    assert too_long("a.py", "\n" * 401) == ["a.py has 401 lines"]
    source = "class A:\n    @decorated\n    async def long():\n" + "        pass\n" * 59
    assert too_long("a.py", source) == []
    assert too_long("a.py", source + "        pass\n") == ["a.py:3: long has 61 lines"]


def test_files_and_functions_are_short():
    offenders = [line for path, source in tracked("*.py").items() for line in too_long(path, source)]
    advice = f"over {MAX_FILE_LINES} lines a file or {MAX_FUNCTION_LINES} a function; split by meaning:\n"
    assert not offenders, advice + "\n".join(offenders)
