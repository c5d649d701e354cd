"""Construction of one object from one config dict, with errors that name the path."""

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from cupola.errors import BuildError, CupolaError, did_you_mean
from cupola.registry.assemble import attach_build_record
from cupola.registry.budget import BudgetError, current_budget
from cupola.registry.recorder import LocatedBuildError, recording
from cupola.registry.scopes import default_scope

Maker = Callable[..., Any]

# What constructors raise for arguments that they cannot use; torch raises RuntimeError.
UNUSABLE = (
    TypeError, ValueError, LookupError, AttributeError, AssertionError, ArithmeticError,
    RuntimeError, MemoryError,
)  # fmt: skip


def construct(
    registry: str, get: Callable[[str], Maker], cfg: Any, defaults: Mapping[str, Any]
) -> Any:
    """Calls the class or callable that ``cfg["type"]`` names, within the current build if any.

    Args:
        registry: the registry's name, for messages and the build record.
        get: finds the class or callable of a name.
        defaults: arguments that `cfg` does not have.
    """
    with recording(registry, cfg) as record:
        where = record.where
        arguments = record.arguments(cfg, defaults)
        kind = arguments.pop("type", None)
        with default_scope(arguments.pop("_scope_", None)):
            maker = _maker(get, kind, where)
            _check_arguments(maker, arguments, where)
            made = record.made(_charged_call(maker, arguments, where), maker, kind)
    if record.parent is None:
        attach_build_record(record.recorder, cfg)
    return made


def _maker(get: Callable[[str], Maker], kind: Any, where: str) -> Any:
    if kind is None:
        raise LocatedBuildError(f"{where}: a config to build needs a 'type'")
    if not isinstance(kind, str):
        if not callable(kind):
            raise LocatedBuildError(f"{where}: type is {kind!r:.60}, neither a name nor a callable")
        return kind
    try:
        return get(kind)
    except BuildError as error:
        raise LocatedBuildError(f"{where}: {error}") from None


@cache
def _parameters(maker: Any) -> tuple[dict[str, bool], bool] | None:
    """Parameter name -> whether it is required, and whether any keyword is accepted."""
    try:
        signature = inspect.signature(maker)
    except (TypeError, ValueError):
        return None
    kinds = inspect.Parameter
    named = {
        p.name: p.default is kinds.empty
        for p in signature.parameters.values()
        if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)
    }
    return named, any(p.kind is kinds.VAR_KEYWORD for p in signature.parameters.values())


def _check_arguments(maker: Any, arguments: Mapping[str, Any], where: str) -> None:
    known = _parameters(maker)
    if known is None:
        return
    parameters, takes_any = known
    name = getattr(maker, "__name__", str(maker))
    for key in arguments:
        if key not in parameters and not takes_any:
            hint = did_you_mean(str(key), parameters).replace("; did", ", did")
            takes = f"; {name} takes {', '.join(parameters) or 'none'}" if not hint else ""
            raise LocatedBuildError(f"{where}: unexpected argument {key!r}{hint}{takes}")
    missing = [key for key, needed in parameters.items() if needed and key not in arguments]
    if missing:
        raise LocatedBuildError(f"{where}: {name} needs {', '.join(map(repr, missing))}")


def _charged_call(maker: Any, arguments: Mapping[str, Any], where: str) -> Any:
    budget = current_budget()
    if budget is None:
        return _call(maker, arguments, where)
    with budget.part(where, getattr(maker, "__name__", str(maker)), arguments):
        return _call(maker, arguments, where)


def _call(maker: Any, arguments: Mapping[str, Any], where: str) -> Any:
    name = getattr(maker, "__name__", str(maker))
    try:
        return maker(**arguments)
    except (LocatedBuildError, BudgetError):
        raise  # it already names a path further in
    except BuildError as error:
        raise LocatedBuildError(f"{where}: {error}") from error
    except CupolaError as error:
        error.add_note(f"while building {where} ({name})")
        raise
    except UNUSABLE as error:
        text = f"{type(error).__name__}: {error}".split("\n")[0].rstrip(": ")
        raise LocatedBuildError(f"{where}: {name}: {text}") from error
    except Exception as error:
        error.add_note(f"while building {where} ({name})")
        raise
