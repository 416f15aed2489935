"""The templates of a dbt project, compiled once in a warm process; and macros, found with less work.

dbt compiles the text of each model and test, and of each argument of a test, in each run: a fifth of what a run without
a change computes. What a text compiles to depends on the text and the kind of environment alone.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable
from types import CodeType
from typing import Any

import jinja2
from dbt.clients.jinja import get_rendered
from dbt.contracts.graph.manifest import Manifest
from dbt.contracts.graph.nodes import Macro
from dbt_common.clients.jinja import (
    BaseMacroGenerator,
    CallableMacroGenerator,
    MacroFuzzEnvironment,
    MacroFuzzTemplate,
    NativeSandboxTemplate,
    get_environment,
    template_cache,
)

# By dbt's own code, of which no macro and no node tells.
_CALLED = ("list_schemas", "list_relations_without_caching", "materialization_test_default")

_compiled: dict[tuple[type, str], CodeType] = {}


def _compile(
    environment: jinja2.Environment,
    source: str,
    name: str | None = None,
    filename: str | None = None,
    raw: bool = False,
    defer_init: bool = False,
) -> Any:
    """Compile a template as Jinja does, a text without a name only once."""
    if name or filename or raw or defer_init or not isinstance(source, str):
        return jinja2.Environment.compile(environment, source, name, filename, raw, defer_init)  # type: ignore[call-overload]
    key = (type(environment), source)
    if key not in _compiled:
        _compiled[key] = jinja2.Environment.compile(environment, source)
    return _compiled[key]


def keep_compiled() -> None:
    """Let dbt in this process, and in children forked from it, compile no text twice.

    Nor copy its context, with each macro of the project, for each argument of a test: a fifteenth of a run without a
    change. dbt itself copies it for no other text.
    """
    # mypy lets no method be assigned.
    setattr(MacroFuzzEnvironment, "compile", _compile)  # noqa: B010
    setattr(NativeSandboxTemplate, "new_context", MacroFuzzTemplate.new_context)  # noqa: B010


def _get_macro(generator: CallableMacroGenerator) -> Callable[..., Any]:
    """Return the macro that a generator stands for, made once in each context.

    What is in the context is looked up at each call, so the macro may as well be the one of the call before.
    """
    if not isinstance(generator.context, ChainMap):
        return BaseMacroGenerator.get_macro(generator)
    made: dict[str, Callable[..., Any]] = vars(generator.context).setdefault("made_macros", {})
    name = generator.macro.unique_id
    if name not in made:
        made[name] = BaseMacroGenerator.get_macro(generator)
    return made[name]


def _contains(chain: ChainMap[Any, Any], key: object) -> bool:
    """Return whether one of the chained mappings has the key, without the generator that Python's own makes."""
    for mapping in chain.maps:  # noqa: SIM110
        if key in mapping:
            return True
    return False


def find_macros_quickly() -> None:
    """Let dbt in this process, and in children forked from it, spend less on finding macros and names in contexts.

    A run without a change calls macros some thousand times. dbt makes a template's module for each call, a tenth of
    such a run; and a context is a chain of six mappings, each of which is asked for each name.
    """
    setattr(CallableMacroGenerator, "get_macro", _get_macro)  # noqa: B010
    setattr(ChainMap, "__contains__", _contains)  # noqa: B010


def macros_in_use(manifest: Manifest) -> list[Macro]:
    """Return the macros of a project and those of dbt that they, its nodes or dbt's own code call, at any depth.

    They are less than half of all: dbt's own are for every kind of database and of model.
    """
    own = manifest.metadata.project_name
    waiting = [name for name, macro in manifest.macros.items() if macro.package_name == own or macro.name in _CALLED]
    for node in manifest.nodes.values():
        waiting += node.depends_on.macros
    found: dict[str, Macro] = {}
    while waiting:
        name = waiting.pop()
        if name not in found and name in manifest.macros:
            found[name] = manifest.macros[name]
            waiting += found[name].depends_on.macros
    return list(found.values())


def compile_project(manifest: Manifest) -> None:
    """Compile the macros of a project, the text of its models and tests, and the plain arguments of its tests."""
    for macro in macros_in_use(manifest):
        template_cache.get_node_template(macro)
    environment = get_environment()
    for node in manifest.nodes.values():
        if raw_code := getattr(node, "raw_code", ""):
            environment.compile(raw_code)
        metadata = getattr(node, "test_metadata", None)
        for value in metadata.kwargs.values() if metadata else ():
            for text in value if isinstance(value, list) else [value]:
                if isinstance(text, str) and "{" not in text:
                    get_rendered(text, {}, native=True)
