"""Named commands of contributors and CI, such as `nox -s lint`. Only `lowest` and `jax` create an environment."""

import os
import sys
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.options.sessions = ["lint", "tests"]
nox.options.default_venv_backend = "none"


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting, types, package order, words, lengths, and the schemas of workflows and citation file."""
    session.run(sys.executable, "-m", "ruff", "check", ".")
    session.run(sys.executable, "-m", "ruff", "format", "--check", ".")
    session.run(sys.executable, "-m", "mypy")
    session.run(sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()")
    session.run(sys.executable, "docs/make_packages.py", "--check")
    session.run(sys.executable, "-m", "pytest", "-q", "tests/whole/test_words.py", "tests/whole/test_code_size.py")
    workflows = [str(file) for file in sorted(Path(".github/workflows").glob("*.yml"))]
    session.run(sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", *workflows)
    session.run(
        sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.citation-file-format", "CITATION.cff"
    )


@nox.session
def tests(session: nox.Session) -> None:
    """Run the default test suite; on Python 3.12 and later with coverage, unless arguments select a part of it."""
    # Coverage adds 7 % of CPU time there, 40 to 65 % on Python 3.11.
    measured = sys.version_info >= (3, 12) and not session.posargs
    coverage = ("--cov=catsdogs", "--cov-report=term") if measured else ()
    environment = {"COVERAGE_CORE": "sysmon"} if measured else {}
    command = (sys.executable, "-m", "pytest", "-n", "2", "--dist", "loadfile")
    session.run(*command, *coverage, *session.posargs, env=environment)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the tests that train for minutes."""
    session.run(sys.executable, "-m", "pytest", "-m", "slow", *session.posargs)


@nox.session
def guides(session: nox.Session) -> None:
    """Run the commands of all guides on small data, in a quarter of an hour."""
    session.run(sys.executable, "-m", "pytest", "-m", "guides", *session.posargs)


# The lowest Python version, too: some packages have no wheel of their lowest version for newer ones.
@nox.session(venv_backend="venv", python="3.11")
def lowest(session: nox.Session) -> None:
    """Run a subset of the tests on the lowest versions that pyproject.toml allows, in a new environment."""
    project = nox.project.load_toml("pyproject.toml")["project"]
    extras = ("fast", "joblib", "mlflow", "optuna")
    lists = [project["dependencies"], *(project["optional-dependencies"][name] for name in extras)]
    ranges = [(one.name, bound) for texts in lists for one in map(Requirement, texts) for bound in one.specifier]
    constraints = Path(session.create_tmp(), "lowest.txt")
    constraints.write_text("".join(f"{name}=={bound.version}\n" for name, bound in ranges if bound.operator == ">="))
    tools = ("hypothesis", "playwright", "psutil", "pytest", "pytest-xdist")
    session.install("--constraint", str(constraints), "--editable", f".[{','.join(extras)}]", *tools)
    session.run("python", "-m", "pytest", "-n", "2", "--dist", "loadfile", "-m", "lowest", *session.posargs)


@nox.session(venv_backend="venv")
def jax(session: nox.Session) -> None:
    """Search, retrain and test training on JAX, in a new environment without TensorFlow."""
    dependencies = nox.project.load_toml("pyproject.toml")["project"]["dependencies"]
    others = [text for text in dependencies if Requirement(text).name != "tensorflow"]
    session.install("jax>=0.6", "pytest", "hypothesis", *others)
    session.install("--no-deps", "--editable", ".")
    on_jax = {"KERAS_BACKEND": "jax"}
    # A network that is built once equals a new one for every trial, and stored training equals live training.
    tests = ("tests/network/test_trial_model.py", "tests/features/test_reader.py")
    session.run("python", "-m", "pytest", "-q", *tests, env=on_jax)
    two_devices = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    session.run("python", "-m", "pytest", "-q", "tests/network/test_devices.py", env=on_jax | two_devices)
    with session.chdir(session.create_tmp()):
        search = ("catsdogs.search", "experiment=debug", "tuner.max_trials=2")
        session.run("python", "-m", *search, "study=jax", env=on_jax)
        session.run("python", "-m", "catsdogs.retrain", "study=jax", env=on_jax)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the site into docs/_build; warnings, such as broken links and pages without one, are errors."""
    # The pages show the output of commands of this environment, without the paths of this machine.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    build = (sys.executable, "-m", "sphinx", "-q", "-E", "-W", "--keep-going", "-c", "docs", ".", "docs/_build")
    session.run(*build, env={"PATH": path, "CATSDOGS_CACHE": None, "COLUMNS": "80"})


@nox.session
def browser(session: nox.Session) -> None:
    """Test report pages in Chromium, which must be installed."""
    session.run(sys.executable, "-m", "pytest", "-m", "browser", *session.posargs)


@nox.session
def slurm(session: nox.Session) -> None:
    """Test a study on a Slurm cluster of one node; requires root on Debian."""
    session.run(sys.executable, "-m", "pytest", "-m", "slurm", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel and the source distribution into dist/."""
    session.run(sys.executable, "-m", "build")
