"""What the platform relies on in dbt itself, so that a new version of dbt that changes it is found here first."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from eds.base.settings import ROOT
from eds.runtime.local.runtime import LocalRuntime
from eds.warehouse import dbt_child
from eds.warehouse.runs import dbt_environment
from support.platform import Platform, project_copy

LOCK = ROOT / "requirements.txt"


def python(code: str, cwd: Path, *arguments: str, executable: str = sys.executable, **environment: str) -> Any:
    """Run a script in a new process. Returns the JSON value of its last line."""
    done = subprocess.run(
        [executable, "-c", code, *arguments],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT / "scripts"), "HOME": str(cwd)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_names_in_dbt_that_the_scheduler_is_built_on() -> None:
    """Of eds.warehouse.dbt_child: the runner with its callbacks, the modules that it warms up, the template cache."""
    import jinja2
    from dbt.adapters.postgres import connections
    from dbt.cli.main import cli, dbtRunner, dbtRunnerResult
    from dbt.clients.jinja import _render_cache, get_rendered
    from dbt.contracts.graph.manifest import Manifest
    from dbt.contracts.graph.nodes import ParsedNode
    from dbt.task import build
    from dbt_common.behavior_flags import BehaviorFlagRendered
    from dbt_common.clients.jinja import (
        BaseMacroGenerator,
        CallableMacroGenerator,
        MacroFuzzEnvironment,
        MacroFuzzTemplate,
        NativeSandboxTemplate,
        get_environment,
        template_cache,
    )
    from dbt_common.events.base_types import BaseEvent, EventLevel, EventMsg
    from dbt_common.events.event_manager import EventManager

    assert inspect.ismodule(connections)
    assert inspect.ismodule(build)
    assert {"manifest", "callbacks"} <= set(inspect.signature(dbtRunner).parameters)
    assert list(inspect.signature(dbtRunner.invoke).parameters)[:2] == ["self", "args"]
    assert {"success", "exception", "result"} <= set(dbtRunnerResult.__dataclass_fields__)
    assert "macros" in Manifest.__dataclass_fields__
    assert list(inspect.signature(template_cache.get_node_template).parameters) == ["node"]
    # Of eds.warehouse.dbt_templates: this method compiles every text.
    assert list(inspect.signature(jinja2.Environment.compile).parameters) == [
        *("self", "source", "name", "filename", "raw", "defer_init")
    ]
    assert list(inspect.signature(MacroFuzzTemplate.new_context).parameters) == ["self", "vars", "shared", "locals"]
    assert NativeSandboxTemplate.new_context in (jinja2.Template.new_context, MacroFuzzTemplate.new_context)
    assert type(get_environment()) is MacroFuzzEnvironment
    assert get_rendered("'plain'", {}, native=True) == _render_cache["'plain'"]
    # dbt asks a generator for its macro at each call of it.
    assert list(inspect.signature(BaseMacroGenerator.get_macro).parameters) == ["self"]
    assert "self.get_macro()" in inspect.getsource(BaseMacroGenerator.call_macro)
    assert issubclass(CallableMacroGenerator, BaseMacroGenerator)
    # What a callback gets: message.info.level, message.info.msg.
    assert inspect.isclass(EventMsg)
    # Of eds.warehouse.dbt_events: every event goes through this method, and these levels are worth a message.
    assert list(inspect.signature(EventManager.fire_event).parameters) == [
        *("self", "e", "level", "node", "force_warn_or_error_handling")
    ]
    assert [level.value for level in EventLevel] == ["debug", "test", "info", "warn", "error"]
    assert list(inspect.signature(BaseEvent.__init__).parameters) == ["self", "args", "kwargs"]
    # Of eds.warehouse.dbt_results: the SQL of every node is written by this method, and that name depends on nothing.
    assert list(inspect.signature(ParsedNode.write_node).parameters) == [
        *("self", "project_root", "compiled_path", "compiled_code")
    ]
    assert not inspect.signature(BehaviorFlagRendered._default_source).parameters
    known = {option for parameter in cli.params for option in (*parameter.opts, *parameter.secondary_opts)}
    for command in ("parse", "build"):
        known_here = known | {
            option
            for parameter in cli.commands[command].params
            for option in (*parameter.opts, *parameter.secondary_opts)
        }
        assert {
            *("--log-level", "--log-level-file", "--log-path", "--no-use-colors", "--no-static-parser"),
            *("--no-write-json", "--project-dir", "--profiles-dir", "--target-path"),
        } <= known_here


EVENTS = """
import json
from dbt_common.events.base_types import EventLevel
from dbt_common.events.event_manager_client import add_callback_to_manager
from dbt_common.events.functions import fire_event
from dbt_common.events.types import Note
from eds.warehouse import dbt_events
dbt_events.drop_unseen_events()
seen = []
add_callback_to_manager(lambda message: seen.append([message.info.level, message.info.msg]))
events = [Note(msg="not seen"), Note(msg="seen"), Note(msg=42)]
for event, level in zip(events, (EventLevel.INFO, EventLevel.WARN, EventLevel.ERROR)):
    fire_event(event, level=level)
print(json.dumps({"seen": seen, "made": ["pb_msg" in event.__dict__ for event in events], "later": events[0].msg}))
"""


def test_only_events_that_are_seen_become_messages(tmp_path: Path) -> None:
    assert python(EVENTS, tmp_path) == {
        "seen": [["warn", "seen"], ["error", "42"]],
        "made": [False, True, True],
        "later": "not seen",
    }


NATIVE = """
import json
from collections import ChainMap
from dbt.clients.jinja import get_rendered
from eds.warehouse.dbt_templates import keep_compiled
context = ChainMap({"rows": [1, 2], "name": "7"}, {"name": "hidden", "below": {"a": None}})
texts = ["{{ rows }}", "{{ name }}", "{{ name | as_text }}", "{{ below }}", "{{ rows | length }} of {{ name }}"]
before = [get_rendered(text, context, native=True) for text in texts]
keep_compiled()
print(json.dumps([before, [get_rendered(text, context, native=True) for text in texts]]))
"""


def test_arguments_of_tests_are_the_same_without_a_copy_of_the_context(tmp_path: Path) -> None:
    before, after = python(NATIVE, tmp_path)
    assert after == before == [[1, 2], "7", "7", {"a": None}, "2 of 7"]


MACROS = """
import json, sys
from collections import ChainMap
from types import SimpleNamespace
from dbt.clients.jinja import MacroGenerator
from dbt_common.clients import jinja
from eds.warehouse import dbt_templates
text = "{% macro f(value=1) %}{{ g() }}/{{ other }}/{{ value }}{{ varargs[0] if varargs }}{% endmacro %}"
def macro(name, text):
    return SimpleNamespace(name=name, unique_id="macro.project." + name, macro_sql=text)
modules = []
make_module = jinja.MacroFuzzTemplate.make_module
def noted(template, *arguments, **options):
    modules.append(template.name)
    return make_module(template, *arguments, **options)
jinja.MacroFuzzTemplate.make_module = noted
def found():
    modules.clear()
    said = []
    for context in (ChainMap({"other": "a"}), ChainMap({"other": "b"}), {"other": "c"}):
        for name, of_macro in (("f", text), ("g", "{% macro g() %}{{ other }}!{% endmacro %}")):
            context[name] = MacroGenerator(macro(name, of_macro), context)
        said += [context["f"](), context["f"](2), context["f"](3, 4)]
        context["other"] = "changed"
        said.append(context["f"]())
    return said
before = found()
made = len(modules)
dbt_templates.find_macros_quickly()
after = found()
print(json.dumps([before, after, made, len(modules)]))
"""


def test_a_macro_is_made_once_in_a_context_and_sees_what_changes_there(tmp_path: Path) -> None:
    before, after, made_before, made_after = python(MACROS, tmp_path)
    assert (
        after
        == before
        == [
            text
            for name in "abc"
            for text in (f"{name}!/{name}/1", f"{name}!/{name}/2", f"{name}!/{name}/34", "changed!/changed/1")
        ]
    )
    # Each call of each macro; then two macros in two contexts, and each call where the context is a plain dictionary.
    assert (made_before, made_after) == (24, 4 + 8)


WARM_UP = """
import json, os, sys, threading
from pathlib import Path
from eds.base.settings import load
from eds.warehouse.dbt_child import warm_up
warm_up(load(), target_path=Path(sys.argv[1]))
import dbt.cli.main
from dbt_common.clients.jinja import template_cache
tasks = len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").exists() else 1
print(json.dumps({
    "threads": [threading.active_count(), tasks],
    "templates": len(template_cache.file_cache),
    "shadow": os.environ.get("ONLY_IN_THE_FILE"),
}))
"""


def test_a_process_that_is_warm_has_one_thread_to_fork_from_and_no_variable_of_a_file(
    runtime: LocalRuntime, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("ONLY_IN_THE_FILE=1\n", encoding="utf-8")
    found = python(WARM_UP, tmp_path, str(tmp_path / "target"))
    assert found["threads"] == [1, 1]
    assert 200 < found["templates"] < 400
    assert found["shadow"] is None


@pytest.mark.proof
def test_a_run_without_a_change_finds_its_macros_compiled(
    small_book: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = tmp_path / "compiled"
    run_dbt = dbt_child._run_dbt

    def in_the_child(arguments: Sequence[str], environment: dict[str, str]) -> None:
        from dbt_common.clients.jinja import template_cache

        before = len(template_cache.file_cache)
        try:
            run_dbt(arguments, environment)
        finally:
            noted.write_text(str(len(template_cache.file_cache) - before), encoding="utf-8")

    monkeypatch.setattr(dbt_child, "_run_dbt", in_the_child)
    small_book.build()
    assert int(noted.read_text(encoding="utf-8")) < 5


IMPORT = "import json, os, dbt.cli.main; print(json.dumps(os.environ.get('ONLY_IN_THE_FILE')))"


def test_dbt_reads_no_env_file_in_the_environment_of_a_command(runtime: LocalRuntime, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("ONLY_IN_THE_FILE=1\n", encoding="utf-8")
    assert python(IMPORT, tmp_path) == "1"
    assert python(IMPORT, tmp_path, **dbt_environment(runtime.settings)) is None


HINTS = """
import json, sys
from pathlib import Path
from eds.base.settings import load
from eds.warehouse.dbt_child import dbt_arguments
from dbt.cli.main import dbtRunner
from dbt.parser import manifest
manifest.LONG_PARSING_THRESHOLD_SECONDS = -1
seen = []
arguments = dbt_arguments(load(), "parse", target_path=Path(sys.argv[1]))
result = dbtRunner(callbacks=[lambda message: seen.append(message.info.msg)]).invoke([*sys.argv[2:], *arguments])
assert result.success, result.exception
print(json.dumps([text for text in seen if "utm_source" in text]))
"""


@pytest.mark.proof
@pytest.mark.parametrize(("options", "advertised"), [((), False), (("--hints-enabled",), True)])
def test_dbt_does_not_advertise(
    runtime: LocalRuntime, tmp_path: Path, options: tuple[str, ...], advertised: bool
) -> None:
    """A parse that takes long makes dbt point at another product, unless the project forbids it."""
    found = python(HINTS, tmp_path, str(tmp_path / "target"), *options, **dbt_environment(runtime.settings))
    assert bool(found) is advertised, found


@pytest.mark.proof
def test_a_model_whose_failure_would_be_passed_over_is_refused(platform: Platform, tmp_path: Path) -> None:
    project = project_copy(tmp_path / "project")
    model = project / "models/marts/dim_product.sql"
    text = model.read_text(encoding="utf-8")
    assert "config(" in text
    model.write_text(text.replace("config(", "config(on_error='continue', ", 1), encoding="utf-8")
    result = platform.of_project(project).dbt("build", "--select", "dim_product")
    assert result.exit_code != 0
    assert result.run is None
    # The same project without it is accepted.
    model.write_text(text, encoding="utf-8")
    assert platform.of_project(project).dbt("build", "--select", "dim_product").run is not None


# Every setting of the lender's figures away from its default, on both sides of UTC.
LENDERS_SETTINGS = (
    {
        "BUSINESS_TIMEZONE": "Africa/Nairobi",
        "ARREARS_TOLERANCE": "50",
        "CLOSE_DAY": "28",
        "PROVISION_SCHEME": "ke_bank",
    },
    {"BUSINESS_TIMEZONE": "America/New_York", "ARREARS_TOLERANCE": "0.01", "CLOSE_DAY": "1"},
    {"BUSINESS_TIMEZONE": "Pacific/Apia"},
)


@pytest.mark.proof
@pytest.mark.parametrize("settings", LENDERS_SETTINGS, ids=lambda settings: settings["BUSINESS_TIMEZONE"])
def test_the_unit_tests_hold_whatever_the_lenders_settings_are(small_book: Platform, settings: dict[str, str]) -> None:
    assert small_book.dbt("test", "--select", "test_type:unit", environment=settings).exit_code == 0


@pytest.mark.proof
def test_the_product_installs_from_its_lock_file_with_the_package_index_alone(tmp_path: Path) -> None:
    """Wheels only: a source package could download whatever it likes while it is built."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    executable = str(tmp_path / "venv/bin/python")
    done = subprocess.run(
        [
            *(executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            *("--require-hashes", "--no-deps", "--only-binary=:all:", "--requirement", str(LOCK)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    code = "import json, dbt.cli.main, dbt.adapters.postgres, eds.cli; print(json.dumps(True))"
    assert python(code, tmp_path, executable=executable) is True
    outdated = subprocess.run([executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    # What the lock leaves out on purpose.
    missing = [line for line in outdated.stdout.splitlines() if "dbt-core-experimental-parser" not in line]
    assert missing in ([], ["No broken requirements found."]), missing
