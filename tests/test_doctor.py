from __future__ import annotations


def test_doctor_lists_problems_and_their_fixes(run, tmp_path):
    (tmp_path / "text.zip").write_text("not a zip")
    done = run("doctor", "--train", "text.zip", "--weights", "nowhere.weights.h5")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any(line.startswith("ok") and "tensorflow" in line for line in lines)
    assert any(line.startswith("ok") and "conf/" in line for line in lines)
    problems = [line for line in lines if line.startswith("PROBLEM")]
    assert len(problems) == 2
    assert "nowhere.weights.h5" in problems[0]
    assert "text.zip" in problems[1]
    assert "not a zip" in done.stdout
    assert lines[-1] == "2 problems found, see above"
