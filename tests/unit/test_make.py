"""make's command line: what reaches a command from it, and what does not reach it from elsewhere.

Also scripts/activate, the passwords that `make nuke` removes or keeps, the help and the README's table of commands,
calls of make in documents and messages, and former names of commands.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from dbt.v2_announcement import V2_AVAILABLE_MSG
from typer.core import TyperGroup

import reference
from bench.commands import app as bench_app
from eds import cli
from eds.base.settings import ROOT, Settings, ensure_env_file, load

TARGETS = {target.name: target for target in reference.every_target()}


def make(*arguments: str, makefile: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make in the checkout as somebody's shell would: without what a make above this test run hands down."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", *(("-f", str(makefile)) if makefile else ()), *arguments],
        cwd=ROOT,
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def command(*arguments: str, **environment: str) -> list[str]:
    """Return the words of the command that make would run."""
    shown = make("-n", *arguments, makefile=None, **environment)
    assert shown.returncode == 0, shown.stderr
    return shlex.split(next(line for line in shown.stdout.splitlines() if line.startswith(".venv/bin/python -m")))[3:]


def test_nothing_of_the_environment_reaches_a_command():
    names = {each.name for target in TARGETS.values() for each in target.options}
    names |= {"NAME", "FORCE", "TO", "LIMIT", "ARGS", "JOBS", "JSON", "FOR", "WITHOUT"}
    bare = make("-n", *TARGETS)
    assert bare.returncode == 0, bare.stderr
    for arguments in (("-n",), ("-n", "-e")):
        assert make(*arguments, *TARGETS, makefile=None, **dict.fromkeys(names, "1")).stdout == bare.stdout


def parameters(application: typer.Typer) -> Iterator[tuple[str, Any]]:
    group = typer.main.get_command(application)
    for command in group.commands.values() if isinstance(group, TyperGroup) else [group]:
        for parameter in command.params:
            yield f"{command.name} {parameter.name}", parameter


def test_no_option_reads_the_environment():
    both = [*parameters(cli.app), *parameters(bench_app)]
    assert len(both) > 40
    assert [name for name, parameter in both if parameter.envvar] == []


def test_force_in_the_environment_does_not_destroy(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    values = {"STATE_DIR": str(state), "EDS_ENV_FILE": str(tmp_path / "env"), "RUNTIME": "local", "FORCE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "eds", "nuke"],
        env=os.environ | values,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "there is no terminal to ask at" in done.stderr
    assert state.exists()


@pytest.mark.parametrize(
    ("shell", "place", "message"),
    [
        ("sh", ROOT, ""),
        ("bash", ROOT, ""),
        ("bash", Path("/"), ""),
        ("sh", Path("/"), "Go to its root"),
    ],
)
def test_dbt_is_activated_by_hand_in_any_shell(tmp_path, shell, place, message):
    if not shutil.which(shell):
        pytest.skip(f"no {shell} on this machine")
    ensure_env_file(tmp_path / "env")
    shown = tmp_path / "bin" / "dbt"
    shown.parent.mkdir()
    version = f"Core:\n00:00:00  {V2_AVAILABLE_MSG}\nPlugins:"
    shown.write_text(
        f'#!/bin/sh\nprintf "%s " "$@"\n[ "$1" != --version ] || printf "%s\n" {shlex.quote(version)}\n',
        encoding="utf-8",
    )
    shown.chmod(0o755)
    script = f""". {shlex.quote(str(ROOT))}/scripts/activate && (unset -f dbt; command -v dbt) || exit 1
        PATH={shlex.quote(str(shown.parent))}:$PATH
        dbt docs generate --no-compile; echo; dbt build --select fact_loans; echo; dbt --version"""
    done = subprocess.run(
        [shell, "-c", script],
        cwd=place,
        env=os.environ | {"EDS_ENV_FILE": str(tmp_path / "env"), "STATE_DIR": str(tmp_path / "state")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert message in done.stderr
    assert (done.returncode == 0) == (not message)
    if not message:
        # The lineage by hand is that of `make docs`.
        assert [line.rstrip() for line in done.stdout.splitlines()] == [
            str(ROOT / ".venv/bin/dbt"),
            'docs generate --vars {"build_order": false} --no-compile',
            "build --select fact_loans",
            # Without its advertising.
            "--version Core:",
            "Plugins:",
        ]


@pytest.mark.parametrize("is_needed", [True, False])
def test_nuke_of_another_state_directory_leaves_the_passwords_of_this_one(tmp_path, monkeypatch, is_needed):
    env, own = tmp_path / "env", tmp_path / "own"
    own.mkdir()
    ensure_env_file(env)
    with env.open("a", encoding="utf-8") as file:
        file.write(f"STATE_DIR={own}\n")
    if is_needed:
        (own / "servers-home").write_text("servers\n", encoding="utf-8")
    monkeypatch.setenv("EDS_ENV_FILE", str(env))
    monkeypatch.setenv("STATE_DIR", str(tmp_path / "other"))
    assert cli._env_file_is_needed(load(env)) == is_needed


@pytest.mark.parametrize("target", [target for target in TARGETS.values() if target.recipe], ids=lambda each: each.name)
def test_each_option_of_the_command_line_becomes_a_flag(target):
    given = [f"{each.name}=1" for each in target.options]
    words = shlex.split(target.recipe)[3:]
    flags = [f"{each.flag}=1" for each in target.options if each.kind == "values"]
    flags += [each.flag for each in target.options if each.kind == "switches"]
    flags += ["--", "1"] if any(each.kind == "arguments" for each in target.options) else []
    flags += ["1" for each in target.options if each.kind == "words"]
    assert command(target.name, *given) == words + flags


@pytest.mark.parametrize(
    "value",
    [
        "2026-01-31 14:32:05+00",
        "two  blanks ",
        "it's",
        'say "x"',
        "$HOME `id` $(id)",
        "a,b;c|d&e>f",
        "*",
        "-x",
        "a=b",
        "#1",
    ],
)
def test_a_value_arrives_as_it_was_written(value):
    assert command("pitr", f"TO={value}") == ["pitr", f"--to={value}"]
    assert command("logs", f"SERVICE={value}") == ["logs", "--", value]


@pytest.mark.parametrize(
    ("value", "flags"),
    [("1", ["--force"]), ("true", ["--force"]), ("yes", ["--force"]), ("0", []), ("", []), ("no", [])],
)
def test_a_switch_is_on_or_off(value, flags):
    assert command("nuke", f"FORCE={value}") == ["nuke", *flags]


def test_a_switch_that_is_neither_is_refused():
    refused = make("nuke", "FORCE=perhaps")
    assert refused.returncode == 2
    assert "FORCE=perhaps: expected 1 or 0" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["etl", "NWO=1"], "NWO: did you mean NOW?"),
        (["NWO=1", "etl"], "NWO: did you mean NOW?"),
        (["up", "SCAEL=empty"], "SCAEL: did you mean SCALE?"),
        (["up", "RUN_TIME=local"], "RUN_TIME: did you mean RUNTIME?"),
        (["etl", "now=1"], "now: did you mean NOW?"),
        (["etl", "KEEP=3"], "KEEP is an option of make backup, not of make etl"),
        (["nuke", "ARG=3"], "ARG: did you mean ARGS?"),
        (["FORCE=1"], "FORCE is an option of make nuke"),
        (["test", "JOB=2"], "JOB: did you mean JOBS?"),
        (["lint", "ARGS=x"], "not of make lint"),
        (["up", "etl", "KIND=physical"], "not of make up etl"),
        (["down", "QQQQ=1"], "QQQQ: there is no such option"),
        # TRAIL, of make bench, is not near enough.
        (["ps", "EXTRA=1"], "EXTRA: there is no such option"),
        (["up", "POSTGRES_PASSWORD=x"], "a secret does not belong on a command line"),
    ],
)
def test_a_variable_that_the_target_does_not_take_is_refused_before_anything_runs(arguments, message):
    refused = make("-n", *arguments)
    assert refused.returncode == 2
    assert message in refused.stderr
    assert refused.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["psql"], "there is no make psql: did you mean psql-primary or psql-replica1 or"),
        (["psql", "ROLE=app_user"], "there is no make psql: did you mean psql-primary"),
        (["upp"], "there is no make upp: did you mean up?"),
        (["Verify"], "there is no make Verify: did you mean verify?"),
        (["ps", "helth"], "there is no make helth: did you mean health"),
        (["it's, a"], "there is no make it's, a: make alone lists"),
        (["qqqq"], "there is no make qqqq: make alone lists"),
    ],
)
def test_unknown_target_is_refused(arguments, message):
    refused = make("-n", *arguments)
    assert refused.returncode == 2
    assert message in refused.stderr


def test_a_slip_is_refused_without_an_environment_of_the_project(tmp_path):
    for part in ("Makefile", "scripts/commands.mk", "scripts/refuse_option.py"):
        (tmp_path / part).parent.mkdir(exist_ok=True)
        (tmp_path / part).write_bytes((ROOT / part).read_bytes())
    refused = make("-C", str(tmp_path), "up", "SCAEL=empty")
    assert "did you mean SCALE?" in refused.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Makefile", "scripts"]


def test_settings_of_the_command_line_are_accepted_by_every_target():
    names = {name.upper() for name in Settings.model_fields} - set(Settings.secret_names())
    for target in ("up", "lint"):
        done = make("-n", target, *(f"{name}=1" for name in names))
        assert done.returncode == 0, done.stderr


def test_several_targets_each_get_their_own_options():
    shown = make("-n", "etl", "backup", "NOW=1", "KIND=physical").stdout
    assert re.search(r"eds etl +--now *$", shown, re.MULTILINE)
    assert re.search(r"eds backup +--kind='physical' *$", shown, re.MULTILINE)


def test_make_in_parallel_and_silent_runs_the_same():
    assert command("-s", "etl", "NOW=1") == command("-j4", "etl", "NOW=1") == ["etl", "--now"]


@pytest.fixture
def outer(tmp_path: Path) -> Path:
    """Return a Makefile of somebody else, which calls this one."""
    path = tmp_path / "Makefile"
    path.write_text(f"all:\n\t@$(MAKE) -n -C {shlex.quote(str(ROOT))} nuke\nslip:\n\t@$(MAKE) -n -C {ROOT} etl NWO=1\n")
    return path


def test_a_make_above_hands_its_variables_down(outer):
    assert "eds nuke  --force" in make("all", "FORCE=1", makefile=outer).stdout


def test_what_a_make_above_has_for_itself_is_not_refused(outer):
    done = make("all", "STAGE=production", "NWO=1", makefile=outer)
    assert done.returncode == 0, done.stderr
    assert "eds nuke" in done.stdout


def test_a_slip_of_a_make_above_is_refused(outer):
    assert "did you mean NOW?" in make("slip", "STAGE=production", makefile=outer).stderr


def test_every_option_shows_up_in_the_help_and_in_the_readme():
    shown, readme = make().stdout, (ROOT / "README.md").read_text(encoding="utf-8")
    assert reference.readme_table(list(TARGETS.values())) in readme
    for target in TARGETS.values():
        if not target.hidden:
            assert re.search(rf"(?m)^  {target.name} ", shown), target.name
            for option in target.options:
                assert f"{option.name}={option.example}" in shown, option.name


def test_every_variable_of_the_makefiles_own_targets_shows_up():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name, words in re.findall(r"(?m)^([a-z0-9-]+)\.words := (.*)$", text):
        assert [word for word in words.split() if f"{word}=" not in TARGETS[name].shown] == []


def test_the_lists_are_those_of_the_declarations():
    targets = list(TARGETS.values())
    assert (ROOT / "scripts/commands.mk").read_text(encoding="utf-8") == reference.commands_mk(targets)


def test_every_call_of_make_in_documents_and_messages_is_one_that_make_takes():
    files = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / ".env.example", *ROOT.glob("scripts/**/*.py")]
    settings = {name.upper() for name in Settings.model_fields}
    wrong, seen = [], 0
    for path in files:
        text = " ".join(path.read_text(encoding="utf-8").split())
        for name, given in re.findall(
            r"make (?:-s )?([a-z][a-z0-9-]*)((?: [A-Z][A-Z_]*=)+)", re.sub(r"=\S+", "=", text)
        ):
            seen += 1
            words = (
                (ROOT / "Makefile").read_text(encoding="utf-8").partition(f"\n{name}.words := ")[2].partition("\n")[0]
            )
            known = {option.name for option in TARGETS[name].options} | set(words.split()) if name in TARGETS else set()
            wrong += [
                f"{path.name}: make {name} {each}"
                for each in given.replace("=", "").split()
                if each not in known | settings
            ]
    assert seen > 50
    assert wrong == []


@pytest.mark.parametrize(("former", "name"), cli.ops.FORMER_NAMES.items())
def test_a_former_name_of_a_command_works_and_names_the_new_one(former, name):
    assert command(former) == [former]
    done = subprocess.run([sys.executable, "-m", "eds", former], capture_output=True, text=True, check=False)
    assert f"make {former} is now make {name}" in done.stderr


def test_what_is_for_programs_is_no_option_of_make():
    assert {
        (target.name, each.name) for target in TARGETS.values() for each in target.options if each.name == "SCHEDULED"
    } == set()


# Stands for Python: makes an environment of itself, and says what pip says of three packages.
INTERPRETER = """#!/bin/sh
case "$*" in
    "-m venv .venv") mkdir -p .venv/bin && cp "$0" .venv/bin/python ;;
    "-m pip install"*)
        case "$*" in *--quiet*) ;; *) printf 'Collecting %s\\n  Downloading it\\n' one two three
            echo 'Installing collected packages: one, two, three' ;; esac
        [ ! -e fails ] || { echo 'ERROR: no such package' >&2; exit 1; } ;;
    *purelib*) echo . ;;
esac
"""


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_the_installation_is_one_line_and_its_errors(tmp_path, terminal, fails):
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "bootstrap.sh", tmp_path / "scripts")
    (tmp_path / "requirements.txt").write_text("one==1\ntwo==1\nthree==1\n")
    (tmp_path / "requirements-dev.txt").touch()
    (tmp_path / "python").write_text(INTERPRETER)
    (tmp_path / "python").chmod(0o755)
    if fails:
        (tmp_path / "fails").touch()
    ours, its = os.openpty() if terminal else os.pipe()
    done = subprocess.run(
        [tmp_path / "scripts" / "bootstrap.sh"],
        env=os.environ | {"PYTHON": str(tmp_path / "python")},
        stdin=subprocess.DEVNULL,
        stdout=its,
        stderr=its,
        check=False,
    )
    os.close(its)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert done.returncode == fails
    assert "Collecting" not in shown and "Downloading" not in shown
    assert ("  2 of 3 packages" in shown) is terminal
    assert ("ERROR: no such package" in shown and "could not be installed, see above" in shown) is fails
    assert (tmp_path / ".venv" / ".installed").exists() is not fails
