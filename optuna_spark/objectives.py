"""Find an objective by name, pickle it, and name what in it cannot be pickled.

This is the one module that knows cloudpickle.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import inspect
import io
import site
import sys
import sysconfig
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cloudpickle

from optuna_spark.exceptions import ObjectiveNotCallable, ObjectiveNotFound, ObjectiveNotPicklable

LARGE_CAPTURE = 100 * 1024 * 1024  # bytes; above it the user is told what is so large
_HINTS = {
    "SparkSession": "Spark objects stay on the driver",
    "SparkContext": "Spark objects stay on the driver",
    "DataFrame": "Spark objects stay on the driver; collect the data first",
    "RDD": "Spark objects stay on the driver; collect the data first",
}


def load_objective(target: str) -> tuple[Callable[..., Any], types.ModuleType]:
    """Import an objective.

    Args:
        target: `FILE.py:NAME` or `package.module:NAME`.

    Returns:
        The objective and the module that holds it.

    Raises:
        ObjectiveNotFound: there is no such file, module or name.
        ObjectiveNotCallable: the name is something else than a function.

    Example:
        >>> objective, module = load_objective("tune.py:objective")  # doctest: +SKIP
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise ObjectiveNotFound(
            f"{target!r} does not name an objective: write FILE.py:NAME or package.module:NAME."
        )
    module = _load_file(Path(place)) if place.endswith(".py") else _load_module(place)
    try:
        objective = functools.reduce(getattr, name.split("."), module)
    except AttributeError:
        known = [
            key
            for key, value in vars(module).items()
            if inspect.isfunction(value) and value.__module__ == module.__name__
        ]
        raise ObjectiveNotFound(
            f"{place} has no {name!r}: correct the name, it defines "
            f"{', '.join(sorted(known)) or 'no function'}."
        ) from None
    return check_callable(objective, target), module


def check_callable(objective: Any, name: str = "The objective") -> Callable[..., Any]:
    """Return the objective.

    Raises:
        ObjectiveNotCallable: it is not a function of a trial.
    """
    if not callable(objective):
        raise ObjectiveNotCallable(
            f"{name} is {_kind(objective)}, not a function: name a function that takes a trial "
            "and returns its value."
        )
    return objective  # type: ignore[no-any-return]


def pickle_objective(run: object, objective: object) -> bytes:
    """Pickle what a run sends to executors.

    Code that is not installed as a package (a script, a notebook, modules beside them) travels
    by value, because executors have no such files.

    Args:
        run: The value to pickle; it holds the objective.
        objective: The objective alone, to say what in it is at fault.

    Raises:
        ObjectiveNotPicklable: something in it cannot be sent; the message names it.
    """
    with _by_value():
        try:
            data = _dumps(run)
        except Exception as error:
            raise _not_picklable(run, objective, error) from error
        if len(data) > LARGE_CAPTURE:
            _warn_of_size(objective, len(data))
    return data


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]
    """Sends what `functools.cache` wraps by value too, which cloudpickle sends by name."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, functools._lru_cache_wrapper):
            module = sys.modules.get(obj.__module__)
            if obj.__module__ == "__main__" or (module is not None and _is_users(module)):
                return _cached, (obj.__wrapped__, obj.cache_parameters())
        return super().reducer_override(obj)


def _cached(function: Callable[..., Any], parameters: dict[str, Any]) -> Callable[..., Any]:
    return functools.lru_cache(**parameters)(function)  # type: ignore[no-any-return]


def _dumps(value: object) -> bytes:
    with io.BytesIO() as file:
        _Pickler(file).dump(value)
        return file.getvalue()


def _load_file(path: Path) -> types.ModuleType:
    if not path.is_file():
        raise ObjectiveNotFound(f"The file {path} does not exist: correct the path.")
    path = path.resolve()
    sys.path.insert(0, str(path.parent))  # as `python FILE.py` does
    # The objective may find its module by name while it is unpickled.
    name = path.stem if path.stem not in sys.modules else f"objective_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _load_module(name: str) -> types.ModuleType:
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        if name.startswith("."):  # a path without its .py; importlib would want a package
            raise ModuleNotFoundError(name=name)
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(error.name + ".")):
            raise ObjectiveNotFound(
                f"There is no module {name!r}: correct the name, or write FILE.py:NAME."
            ) from None
        raise


def pickle_error(error: BaseException) -> bytes:
    """Pickle an exception; a class that cannot travel becomes its nearest base that can."""
    text = type(error).__name__
    with contextlib.suppress(Exception):  # its own __str__ may fail
        text = f"{text}: {error}"
    forms: list[Callable[[], object]] = [lambda: error, lambda: _WithoutInit(error)]
    forms += [functools.partial(kind, text) for kind in type(error).__mro__[1:]]
    for form in forms:
        try:
            data: bytes = cloudpickle.dumps(form())
            cloudpickle.loads(data)
            return data
        except Exception:  # a class of its own kind; the next form is the fallback
            continue
    raise AssertionError("BaseException itself can be pickled")


class _WithoutInit:
    """Pickles as an exception whose `__init__` is not called, without what cannot travel."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __reduce__(self) -> tuple[Any, ...]:
        args = tuple(part if _can_be_pickled(part) else repr(part) for part in self._error.args)
        held = {key: part for key, part in vars(self._error).items() if _can_be_pickled(part)}
        return _make_error, (type(self._error), args, held)


def _make_error(
    kind: type[BaseException], args: tuple[Any, ...], held: dict[str, Any]
) -> BaseException:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(held)
    return error


def pickle_sampler(sampler: object) -> bytes:
    """Pickle a sampler on an executor, where its class may have come by value."""
    data: bytes = cloudpickle.dumps(sampler)
    return data


@contextlib.contextmanager
def _by_value() -> Iterator[None]:
    """Let cloudpickle send the code of every module that is in no installed package."""
    registered = []
    known = set(cloudpickle.list_registry_pickle_by_value())
    for module in list(sys.modules.values()):
        if not isinstance(module, types.ModuleType) or module.__name__ in known:
            continue
        if _is_users(module):
            cloudpickle.register_pickle_by_value(module)
            registered.append(module)
    try:
        yield
    finally:
        for module in registered:
            cloudpickle.unregister_pickle_by_value(module)


@functools.cache
def _installed_folders() -> tuple[str, ...]:
    paths = sysconfig.get_paths()
    folders = {paths[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
    folders.update(site.getsitepackages())
    folders.update((site.getusersitepackages(), str(Path(__file__).parent)))
    folders.update(entry for entry in sys.path if "pyspark" in entry or "py4j" in entry)
    return tuple({str(Path(folder).resolve()) + "/" for folder in folders} | {"<frozen"})


def _is_users(module: types.ModuleType) -> bool:
    file = getattr(module, "__file__", None)
    if module.__name__ == "__main__" or not file or not file.endswith(".py"):
        return False  # cloudpickle sends __main__ by value anyway
    if module.__name__.split(".")[0] == "optuna_spark":
        return False
    path = str(Path(file).resolve())
    return not path.startswith(_installed_folders()) and "site-packages" not in path


def _not_picklable(run: object, objective: object, error: Exception) -> ObjectiveNotPicklable:
    whole = objective
    if _can_be_pickled(objective):  # then it is the sampler, or what else goes with it
        whole = next((part for _, part in _parts(run) if not _can_be_pickled(part)), run)
    subject = "The objective" if whole is objective else f"The {type(whole).__name__}"
    path, culprit = _find_culprit(whole, "", set()) or ("", whole)
    hint = _HINTS.get(type(culprit).__name__, "create or open it inside the objective")
    if culprit is whole:
        return ObjectiveNotPicklable(
            f"{subject} cannot be sent to executors ({_first_line(error)}): {hint}."
        )
    return ObjectiveNotPicklable(
        f"{subject} captures {path}, {_kind(culprit)}, which cannot be sent to executors: {hint}."
    )


def _kind(value: object) -> str:
    if isinstance(value, io.IOBase):
        return "an open file"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"


def _find_culprit(value: object, path: str, seen: set[int]) -> tuple[str, object] | None:
    """Follow what a value holds down to the innermost part that cannot be pickled.

    Returns:
        Its path and itself; None where all that is at fault in the value was seen before.
    """
    seen.add(id(value))
    faulty = [(name, part) for name, part in _parts(value) if not _can_be_pickled(part)]
    # What a Spark object holds says nothing to the user.
    if not faulty or type(value).__name__ in _HINTS:
        return path, value
    for name, part in faulty:
        if id(part) not in seen:
            found = _find_culprit(part, _inner(path, name), seen)
            if found is not None:
                return found
    return None


def _inner(path: str, name: str) -> str:
    return f"{path or 'self'}{name}" if name.startswith((".", "[")) else name


def _parts(value: object) -> Iterator[tuple[str, object]]:
    """What a value holds: by an index or attribute of it, or by a name of its own."""
    if isinstance(value, types.MethodType):
        yield "self", value.__self__
    elif isinstance(value, functools.partial):
        yield from ((f"argument {index}", part) for index, part in enumerate(value.args))
        yield from value.keywords.items()
        yield from _parts(value.func)
    elif inspect.isfunction(value):
        yield from _parts_of_function(value)
    elif isinstance(value, Mapping):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, (list, tuple, set, frozenset)):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif isinstance(value, type):
        for key, part in vars(value).items():
            yield f".{key}", getattr(part, "__func__", getattr(part, "fget", part))
    elif not isinstance(value, types.ModuleType):
        slots = (name for kind in type(value).__mro__ for name in vars(kind).get("__slots__", ()))
        for key in (*getattr(value, "__dict__", ()), *slots):
            yield f".{key}", getattr(value, key, None)
        yield type(value).__name__, type(value)


def _parts_of_function(function: types.FunctionType) -> Iterator[tuple[str, object]]:
    for parameter in inspect.signature(function).parameters.values():
        if parameter.default is not parameter.empty:
            yield parameter.name, parameter.default
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # a cell that is still empty
            yield name, cell.cell_contents
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield name, function.__globals__[name]


def _names(code: types.CodeType) -> Iterator[str]:
    """Names that a function, or a function inside it, looks up outside itself."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _can_be_pickled(value: object) -> bool:
    return _size(value) is not None


def _size(value: object) -> int | None:
    try:
        return len(_dumps(value))
    except Exception:  # any class may raise anything from its __reduce__
        return None


def _warn_of_size(objective: object, size: int) -> None:
    parts = [(name, part) for name, part in _parts(objective) if part is not objective]
    sizes = [(_size(part) or 0, _inner("", name)) for name, part in parts]
    largest, name = max(sizes, default=(size, "its captures"))
    warnings.warn(
        f"The objective is {size >> 20} MB, of which {name!r} is {largest >> 20} MB: it is sent "
        "once to each executor, but reading it inside the objective may be cheaper.",
        stacklevel=4,
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
