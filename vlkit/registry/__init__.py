"""Names to builders: the registries that let models, processors, datasets and tasks meet in a config.

A class registers itself where it is defined::

    @MODELS.register("blip_caption")
    class BlipCaption(nn.Module): ...

The modules that hold such classes are imported only when a name is looked up: first the name is searched among what is
registered, then in the source of the registry's package, then the whole package is imported once, then the entry points
``vlkit.plugins`` are loaded.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pkgutil
import sys
import weakref
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from vlkit.errors import RegistryError, VlkitError, closest, shortened
from vlkit.registry import plugin_files

T = TypeVar("T", bound=Callable[..., Any])

_entry_points_loaded = False
_registries: weakref.WeakSet[Registry] = weakref.WeakSet()


class Registry:
    """One kind of thing by name.

    Args:
        kind: what is registered, in messages ("model").
        package: the package whose modules register the built-in ones.
    """

    def __init__(self, kind: str, package: str):
        self.kind, self.package = kind, package
        self._items: dict[str, Callable[..., Any]] = {}
        self._scanned = False
        _registries.add(self)

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that registers the class or function below it under ``name``.

        Raises:
            RegistryError: the name is taken by something defined elsewhere; both places are named.
        """

        def decorate(item: T) -> T:
            taken = self._items.get(name)
            if taken is not None and _place(taken) != _place(item):
                raise RegistryError(
                    f"two {self.kind}s are named {name!r}: {_place(taken)} and {_place(item)}. Rename one of them."
                )
            self._items[name] = item
            return item

        return decorate

    def get(self, name: str) -> Callable[..., Any]:
        """Return the class registered as ``name``.

        Raises:
            RegistryError: nothing is; the message has the closest names and all that are known.
        """
        if not isinstance(name, str):
            raise RegistryError(f"{name!r} given, the name of a {self.kind} is needed: a text.")
        for find_more in (lambda: None, lambda: self._import_definition(name), self._scan, load_entry_points):
            find_more()
            if name in self._items:
                return self._items[name]
        known = self.names()
        near = closest(name, known)
        hint = f" Closest: {', '.join(near)}." if near else ""
        raise RegistryError(
            f"no {self.kind} is named {name!r}.{hint} Known: {', '.join(known)}. "
            f"If a plugin defines it: is its file listed under 'plugins:'?"
        )

    def names(self) -> list[str]:
        """Return all names, sorted, after a full scan."""
        self._scan()
        load_entry_points()
        return sorted(self._items)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self.names()

    def _import_definition(self, name: str) -> None:
        """Import the module whose source registers ``name``, and no other: importing all of them takes seconds."""
        if self._scanned:
            return
        for folder in map(Path, importlib.import_module(self.package).__path__):
            for file in sorted(folder.rglob("*.py")):
                if f'.register("{name}")' in file.read_text(encoding="utf-8"):
                    self._import(".".join((self.package, *file.relative_to(folder).with_suffix("").parts)))

    def _import(self, module: str) -> None:
        try:
            importlib.import_module(module)
        except VlkitError:
            raise
        except Exception as error:
            _drop_unfinished()
            raise RegistryError(
                f"the module {module} fails to import: {type(error).__name__}: {error}. Without it the {self.kind}s "
                "are not complete."
            ) from error

    def _scan(self) -> None:
        """Import all modules of the package. One that fails is tried again, and reported again, at the next miss."""
        if self._scanned:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.walk_packages(package.__path__, prefix=self.package + "."):
            self._import(module.name)
        self._scanned = True


def _drop_unfinished() -> None:
    """Forget what modules registered before their import failed: it may not work, and nothing would say why."""
    for registry in _registries:
        for name, item in list(registry._items.items()):
            if getattr(item, "__module__", None) not in sys.modules:
                del registry._items[name]


def _place(item: Callable[..., Any]) -> str:
    """Return ``file:line``; a reloaded file gives the same place, so it may register again."""
    try:
        return f"{inspect.getsourcefile(item)}:{inspect.getsourcelines(item)[1]}"
    except (OSError, TypeError):
        return f"{item.__module__}.{item.__qualname__}"


def load_entry_points() -> None:
    """Import installed plugins (entry-point group ``vlkit.plugins``), once."""
    global _entry_points_loaded
    if _entry_points_loaded:
        return
    for point in entry_points(group="vlkit.plugins"):
        try:
            point.load()
        except RegistryError:
            raise
        except Exception as error:
            raise RegistryError(
                f"the installed plugin {point.name!r} ({point.value}) fails to import: "
                f"{type(error).__name__}: {error}. Repair or uninstall it."
            ) from error
    _entry_points_loaded = True


def load_plugin(path: str | Path) -> None:
    """Import one plugin file; what it registers can be named from then on. A second call does nothing.

    Its objects can be pickled: see :mod:`vlkit.registry.plugin_files`.

    Raises:
        RegistryError: no such file, or it fails to import.
    """
    try:
        file = Path(os.path.expanduser(path)).resolve()
        is_file = file.is_file()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL character, links in a circle
        reason = getattr(error, "strerror", None) or error
        raise RegistryError(f"plugin file {shortened(str(path))}: {reason}.") from error
    if not is_file:
        raise RegistryError(f"plugin file {str(path)!r} does not exist (as {file}).")
    name = plugin_files.module_name(file)
    if name in sys.modules:
        plugin_files.remember(file)
        return
    if importlib.util.spec_from_file_location(name, file) is None:
        raise RegistryError(f"plugin file {file} is not a Python file (its name must end in .py).")
    plugin_files.remember(file)
    try:
        importlib.import_module(name)
    except BaseException as error:
        plugin_files.forget(file)
        _drop_unfinished()
        if isinstance(error, (KeyboardInterrupt, RegistryError)):  # SystemExit would end the command without a word
            raise
        raise RegistryError(f"plugin file {file} fails to import: {type(error).__name__}: {error}") from error


MODELS = Registry("model", "vlkit.models")
PROCESSORS = Registry("processor", "vlkit.processors")
DATASETS = Registry("dataset", "vlkit.datasets")
TASKS = Registry("task", "vlkit.tasks")


def list_models() -> list[str]:
    """Return the names of models, sorted. This and the following functions are LAVIS's interface of ``registry``."""
    return MODELS.names()


def list_processors() -> list[str]:
    """Return the names of processors, sorted."""
    return PROCESSORS.names()


def list_datasets() -> list[str]:
    """Return the names of dataset classes, sorted; those of dataset cards are in ``vlkit.list_datasets()``."""
    return DATASETS.names()


def list_tasks() -> list[str]:
    """Return the names of tasks, sorted."""
    return TASKS.names()


def get_model_class(name: str) -> Callable[..., Any]:
    """See :meth:`Registry.get`, as for the others."""
    return MODELS.get(name)


def get_processor_class(name: str) -> Callable[..., Any]:
    """Return the processor registered as ``name``."""
    return PROCESSORS.get(name)


def get_builder_class(name: str) -> Callable[..., Any]:
    """Return the dataset registered as ``name``."""
    return DATASETS.get(name)


def get_task_class(name: str) -> Callable[..., Any]:
    """Return the task registered as ``name``."""
    return TASKS.get(name)
