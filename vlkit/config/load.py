"""A YAML file, what it extends and the overrides of the command line, as one resolved configuration."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlkit.config.old_keys import is_record, tree_with_current_keys
from vlkit.config.overrides import apply_overrides, check_interpolations, lay, merge
from vlkit.config.yamlfile import MAX_BYTES, Node, SourceLocation, dump_yaml, parse_yaml
from vlkit.errors import ConfigError, VlkitError, did_you_mean
from vlkit.io.fetch import local_path

MAX_EXTENDS = 30
"""Longest chain of files that extend one another."""


class Config:
    """Resolved data that know where each key was written.

    Args:
        data: mappings, lists and plain values; no interpolation is left.
        path: the file that was loaded, or None.
        places: key path ("datasets.train.0.size") to the place where it was written.
    """

    def __init__(self, data: dict[str, Any], path: Path | None = None, places: dict[str, SourceLocation] | None = None):
        self.data, self.path = data, path
        self._places = places or {}

    def origin(self, key_path: str) -> str:
        """Return ``run.yaml: optim.lr (line 12)``, ``command line: optim.lr``, or the key path if nothing is known.
        A key that was not written takes the line of the nearest mapping that was."""
        place = self._place(key_path)
        if place is None:
            return f"{display(self.path)}: {key_path}".removesuffix(": ") if self.path else key_path
        if place.file is None:
            return f"command line: {key_path}"
        return f"{display(place.file)}: {key_path} (line {place.line})"

    def source(self, key_path: str) -> Path | None:
        """Return the file in which ``key_path`` was written; None for the command line."""
        place = self._place(key_path)
        return place.file if place else self.path

    def __contains__(self, key_path: object) -> bool:
        return key_path in self._places

    def _place(self, key_path: str) -> SourceLocation | None:
        while key_path:
            if key_path in self._places:
                return self._places[key_path]
            key_path = key_path.rpartition(".")[0]
        return None


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Load a YAML file: bases named by ``extends``, then the file, then the overrides, then interpolation.

    Mappings merge key by key, lists and values replace. ``extends`` is one path or a list, relative to the
    file or ``package://name/path``; later ones win. ``${section.key}`` is OmegaConf's interpolation.

    Args:
        overrides: ``key.path=value`` with a YAML value; list entries by index: ``datasets.train.0.size=100``.

    Raises:
        ConfigError: a file is missing or not YAML, ``extends`` runs in a circle, or an override or an
            interpolation cannot be resolved.
    """
    file = expanded(path)
    return _finish(_load_file(file, (), {}), file, overrides)


def read_tree(path: str | Path) -> tuple[Node, Config]:
    """Read a file as it is written, with what it extends but with interpolations left in, as a tree and as data.

    Raises:
        ConfigError: a file is missing or not YAML.
    """
    file = expanded(path)
    root = _load_file(file, (), {})
    places: dict[str, SourceLocation] = {}
    return root, Config(_plain(root, "", places), file, places)


def load_nested(
    root: Node | str,
    path: Path,
    layers: Sequence[tuple[str, Node]] = (),
    overrides: Sequence[str] = (),
    context: Mapping[str, Any] | None = None,
) -> Config:
    """Load a configuration that another file holds or names.

    Args:
        root: a mapping inside the file ``path``, or a path relative to it; ``extends`` in it works as ever.
        path: that file.
        layers: key paths and values to be laid over it, in order.
        overrides: laid over all of it.
        context: further names that interpolation may use: ``${stages.pretrain}`` with ``{"stages": {...}}``,
            ``${seed}`` with ``{"seed": 0}``.

    Raises:
        ConfigError: as for :func:`load_config`.
    """
    if isinstance(root, str):
        path = path.parent / expanded(root)
        root = _load_file(path, (), {})
    else:
        root = _with_bases(Node(dict(root.value), root.place), path, (), {})
    for key, value in layers:
        root = lay(root, key, value)
    return _finish(root, path, overrides, context)


def expanded(path: str | Path) -> Path:
    """Replace ``~`` and ``~name`` in ``path`` by home folders; a name that nobody has stays as it is. Of
    ``package://name/path`` the place in the installed package.

    Raises:
        ConfigError: it is empty, or in no installed package.
    """
    if not str(path).strip():
        raise ConfigError("an empty path is given; the path of a file is needed.")
    if str(path).startswith("package:/"):
        try:
            return local_path(path)
        except VlkitError as error:
            raise ConfigError(str(error)) from error
    return Path(os.path.expanduser(path))


def to_yaml(config: Config) -> str:
    """Return the resolved configuration as YAML; loading it gives the same data."""
    return dump_yaml(config.data)


def display(path: Path | None) -> str:
    """Return ``path`` as a person would write it: relative when it lies under the working directory."""
    if path is None:
        return "command line"
    try:
        relative = os.path.relpath(path)
    except (OSError, ValueError):  # the working directory is gone, or the path holds what no path can
        return str(path)
    return str(path) if relative.startswith("..") else relative


def _load_file(path: Path, chain: tuple[Path, ...], loaded: dict[Path, Node]) -> Node:
    """Load the tree of a file with what it extends.

    Args:
        path: of the file.
        chain: the files that lead to it by ``extends``.
        loaded: files that were read already: each is read once, however often it is extended.
    """
    try:
        file = path.resolve()
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL character, links in a circle
        raise ConfigError(f"{_shown(path)}: is no usable path: {_why(error)}.") from error
    if file in chain:
        names = " -> ".join(display(f) for f in (*chain[chain.index(file) :], file))
        raise ConfigError(f"'extends' runs in a circle: {names}. Remove one of these links.")
    if len(chain) >= MAX_EXTENDS:
        raise ConfigError(f"{_shown(path)}: more than {MAX_EXTENDS} files extend one another; put some together.")
    if file not in loaded:
        by = f" ({display(chain[-1])} extends it)" if chain else ""
        root = parse_yaml(_read(path, by), _shown(path), path)
        if not isinstance(root.value, dict):
            raise ConfigError(f"{_shown(path)}: holds {_kind(root.value)}{by}; a mapping (key: value) is needed.")
        if is_record(path):
            root = tree_with_current_keys(root)
        loaded[file] = _with_bases(root, path, (*chain, file), loaded)
    return loaded[file]


def _read(path: Path, by: str) -> bytes:
    """Read the content of a file; ``by`` says in messages what names it."""
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):
            return _limited(path)
    except FileNotFoundError as error:
        siblings = [f.name for f in path.parent.iterdir() if f.is_file()] if path.parent.is_dir() else []
        raise ConfigError(f"{_shown(path)}: does not exist{by}.{did_you_mean(path.name, siblings)}") from error
    except OSError as error:
        raise ConfigError(f"{_shown(path)}: cannot be read{by}: {error.strerror}.") from error
    if stat.S_ISDIR(mode):
        raise ConfigError(f"{_shown(path)}: is a folder, not a file{by}.")
    what = "a pipe, which can be read only once" if stat.S_ISFIFO(mode) else "a device or a socket"
    raise ConfigError(f"{_shown(path)}: is {what}{by}. Write the configuration to a file and name that.")


def _limited(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(MAX_BYTES + 1)  # one more: the parser says that there are too many


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _shown(path: Path) -> str:
    """Return ``path`` for a message: as :func:`display` gives it, the middle left out where it is very long."""
    text = display(path)
    return text if len(text) <= 300 else f"{text[:100]}...{text[-100:]} ({len(text):,} characters)"


def _with_bases(root: Node, path: Path, chain: tuple[Path, ...], loaded: dict[Path, Node]) -> Node:
    """Merge ``root`` over what it extends."""
    merged = Node({}, root.place)
    for base in _bases(root, path):
        merged = merge(merged, _load_file(path.parent / expanded(base), chain, loaded))
    return merge(merged, root)


def _finish(root: Node, path: Path, overrides: Sequence[str], context: Mapping[str, Any] | None = None) -> Config:
    root = apply_overrides(root, overrides)
    places: dict[str, SourceLocation] = {}
    data = _plain(root, "", places)
    return Config(_resolve(Config(data, path, places), context or {}), path, places)


def _bases(root: Node, path: Path) -> list[str]:
    """Take ``extends`` out of ``root``."""
    extends = root.value.pop("extends", None)
    if extends is None or extends.value is None:
        return []
    entries = extends.value if isinstance(extends.value, list) else [extends]
    if not all(isinstance(entry.value, str) and entry.value.strip() for entry in entries):
        raise ConfigError(f"{display(path)}: extends (line {extends.place.line}): a path or a list of paths is needed.")
    return [entry.value for entry in entries]


def _plain(node: Node, path: str, places: dict[str, SourceLocation]) -> Any:
    if path:
        places[path] = node.place
    prefix = f"{path}." if path else ""
    if isinstance(node.value, dict):
        return {key: _plain(child, f"{prefix}{key}", places) for key, child in node.value.items()}
    if isinstance(node.value, list):
        return [_plain(child, f"{prefix}{index}", places) for index, child in enumerate(node.value)]
    return node.value


def _resolve(config: Config, context: Mapping[str, Any]) -> dict[str, Any]:
    """Replace every ``${...}`` in the data, which may also name what is in ``context``."""
    if not _refers(config.data):
        return config.data
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    check_interpolations({**context, **config.data}, config.origin)
    try:
        joined = OmegaConf.create({**context, **config.data})
        resolved = OmegaConf.to_container(joined, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        key = re.sub(r"\[(\d+)\]", r".\1", getattr(error, "full_key", None) or "")
        message = str(error).splitlines()[0].rstrip(".")
        missing = re.search(r"key '([^']+)' not found", message)
        known = [*config._places, *_leaves(context)]
        hint = did_you_mean(missing[1], known) if missing else ""
        if message.startswith("Missing mandatory value"):
            message = "'???' stands for a value that must be given, in a file or on the command line"
        where = config.origin(key) if key else display(config.path)
        raise ConfigError(f"{where}: {message}.{hint}") from error
    except RecursionError as error:
        raise ConfigError(f"{display(config.path)}: an interpolation is nested too deep.") from error
    return {key: resolved[key] for key in config.data}  # type: ignore[index,call-overload]  # a mapping went in


def _refers(value: Any) -> bool:
    """Return whether a text in ``value`` is resolved to something else."""
    if isinstance(value, str):
        return "${" in value or value == "???"
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(_refers, inside))


def _leaves(context: Mapping[str, Any]) -> list[str]:
    """Return the key paths of plain values in a mapping of values and mappings of values."""
    return [
        f"{name}.{key}" if key else name
        for name, value in context.items()
        for key in (value if isinstance(value, Mapping) else ("",))
    ]


def _kind(value: Any) -> str:
    """Return what a file holds, in words; never its content, which may be a secret."""
    return "a list" if isinstance(value, list) else "a single value"
