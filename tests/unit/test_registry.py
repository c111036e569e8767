"""Names to builders, lazy imports and plugins."""

from __future__ import annotations

import sys
import types

import pytest

from vlkit import registry
from vlkit.errors import RegistryError
from vlkit.registry import load_plugin


@pytest.fixture
def things(tmp_path, monkeypatch):
    """A registry over a package whose module ``later`` registers "lazy" when it is imported."""
    package = tmp_path / "pack_of_things"
    package.mkdir()
    (package / "__init__.py").write_text("from vlkit.registry import Registry\nTHINGS = Registry('thing', __name__)\n")
    (package / "later.py").write_text(
        "from pack_of_things import THINGS\n\n@THINGS.register('lazy')\nclass Lazy:\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import pack_of_things

    yield pack_of_things.THINGS
    for name in [name for name in sys.modules if name.startswith("pack_of_things")]:
        del sys.modules[name]


def test_a_name_is_looked_up_without_scanning(things):
    @things.register("eager")
    class Eager:
        pass

    assert things.get("eager") is Eager
    assert "pack_of_things.later" not in sys.modules


def test_a_miss_scans_the_package(things):
    assert things.get("lazy").__name__ == "Lazy"
    assert things.names() == ["lazy"]
    assert "lazy" in things
    assert "none" not in things


def test_unknown_names_list_close_and_known_ones(things):
    with pytest.raises(RegistryError) as caught:
        things.get("lazzy")
    message = str(caught.value)
    assert "no thing is named 'lazzy'. Closest: lazy. Known: lazy." in message
    assert "listed under 'plugins:'" in message


def test_two_things_of_one_name_are_both_named(things):
    @things.register("twice")
    class First:
        pass

    with pytest.raises(RegistryError, match="two things are named 'twice'") as caught:

        @things.register("twice")
        class Second:
            pass

    assert str(caught.value).count("test_registry.py:") == 2
    assert things.get("twice") is First


def test_the_same_class_may_register_again(things):
    class Same:
        pass

    assert things.register("same")(Same) is Same
    assert things.register("same")(Same) is Same
    assert things.get("same") is Same


def test_plugin_file_registers_once(tmp_path, things):
    file = tmp_path / "mine.py"
    file.write_text("from pack_of_things import THINGS\n\n@THINGS.register('mine')\nclass Mine:\n    pass\n")
    load_plugin(file)
    first = things.get("mine")
    load_plugin(str(file))
    assert things.get("mine") is first


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("none.py", None, "does not exist"),
        ("notes.txt", "x = 1", "not a Python file"),
        ("broken.py", "import nothing_of_this_name", "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        ("syntax.py", "def f(:\n", "SyntaxError"),
    ],
)
def test_plugin_that_cannot_be_loaded(tmp_path, name, text, expected):
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    with pytest.raises(RegistryError, match="plugin file") as caught:
        load_plugin(file)
    assert expected in str(caught.value)
    assert not any(module.startswith(f"vlkit.registry.plugin_files.{file.stem}") for module in sys.modules)
    with pytest.raises(RegistryError) as again:
        load_plugin(file)
    assert str(again.value) == str(caught.value)


def test_two_plugins_with_one_name(tmp_path, things):
    for name in ("left", "right"):
        (tmp_path / f"{name}.py").write_text(
            "from pack_of_things import THINGS\n\n@THINGS.register('shared')\nclass Shared:\n    pass\n"
        )
    load_plugin(tmp_path / "left.py")
    with pytest.raises(RegistryError, match="two things are named 'shared'") as caught:
        load_plugin(tmp_path / "right.py")
    assert "left.py:3" in str(caught.value)
    assert "right.py:3" in str(caught.value)


def test_installed_plugins_are_loaded_on_a_miss(things, monkeypatch):
    def load():
        things.register("installed")(type("Installed", (), {}))

    point = types.SimpleNamespace(name="pack", value="pack:mod", load=load)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "vlkit.plugins" else [])
    monkeypatch.setattr(registry, "_entry_points_loaded", False)
    assert things.get("installed").__name__ == "Installed"


def test_a_broken_installed_plugin_is_named(things, monkeypatch):
    def load():
        raise ImportError("no libfoo")

    point = types.SimpleNamespace(name="pack", value="pack:mod", load=load)
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    monkeypatch.setattr(registry, "_entry_points_loaded", False)
    with pytest.raises(RegistryError, match=r"'pack' \(pack:mod\) fails to import: ImportError: no libfoo"):
        things.get("none")
    with pytest.raises(RegistryError, match="no libfoo"):
        things.get("none")


def test_a_module_that_fails_to_import_is_reported_at_every_look_up(things, tmp_path):
    broken = tmp_path / "pack_of_things" / "broken.py"
    broken.write_text(
        "from pack_of_things import THINGS\n\n@THINGS.register('half')\nclass Half:\n    pass\n\nimport not_installed\n"
    )
    for _ in range(3):
        for name in ("none", "half"):  # what the module registered before it failed may not work either
            with pytest.raises(RegistryError) as caught:
                things.get(name)
            assert "the module pack_of_things.broken fails to import: ModuleNotFoundError" in str(caught.value)
            assert "not_installed" in str(caught.value)
    broken.write_text("")
    assert "later" not in things.names()  # and once it is repaired, everything is found
    assert things.get("lazy").__name__ == "Lazy"


def test_what_a_plugin_registered_before_it_failed_is_forgotten(tmp_path, things):
    file = tmp_path / "half.py"
    file.write_text("from pack_of_things import THINGS\n\n@THINGS.register('half')\nclass Half:\n    pass\n\n1 / 0\n")
    with pytest.raises(RegistryError, match="ZeroDivisionError"):
        load_plugin(file)
    assert "half" not in things
    file.write_text("from pack_of_things import THINGS\n\n@THINGS.register('half')\nclass Half:\n    pass\n")
    load_plugin(file)
    assert things.get("half").__name__ == "Half"


@pytest.mark.parametrize("path", ["x" * 5000 + ".py", "a\0.py", "~nobody-of-this-name/x.py"])
def test_paths_of_plugins_that_cannot_be_read(path):
    with pytest.raises(RegistryError, match="plugin file"):
        load_plugin(path)
