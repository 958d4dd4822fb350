"""What package.toml may say, and what is made of what it leaves out."""

from __future__ import annotations

from pathlib import Path

import pytest

from cloacina.packages.errors import PackageRefused
from cloacina.packages.manifest import Manifest


def package(folder: Path, text: str, *files: str) -> Path:
    for name in files or ("workflow/demo/tasks.py",):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    (folder / "package.toml").write_text(text)
    return folder


HEAD = '[package]\nname = "demo"\nversion = "1.0"\n[metadata]\nworkflow_name = "w"\n'


def test_language_and_entry_module_are_inferred(tmp_path: Path) -> None:
    manifest = Manifest.read(package(tmp_path, HEAD))
    assert (manifest.language, manifest.entry_module, manifest.folder) == ("python", "demo.tasks", "demo-1.0")


def test_the_folder_of_the_packages_name_comes_first(tmp_path: Path) -> None:
    text = HEAD.replace('"demo"', '"my-demo"')
    both = ("workflow/my_demo/tasks.py", "workflow/other/tasks.py")
    assert Manifest.read(package(tmp_path, text, *both)).entry_module == "my_demo.tasks"


def test_what_the_original_writes_is_accepted(tmp_path: Path) -> None:
    extra = 'interface = "cloacina-workflow-plugin"\ninterface_version = 1\nextension = "cloacina"\n'
    text = HEAD.replace("[metadata]", f"{extra}[metadata]") + (
        'language = "python"\nentry_module = "demo.tasks"\nrequires_python = ">=3.9"\ndescription = "d"\nauthor = "a"\n'
    )
    manifest = Manifest.read(package(tmp_path, text))
    assert (manifest.description, manifest.author, manifest.requires_python) == ("d", "a", ">=3.9")


REFUSED = {
    "unknown key": (HEAD + "colour = 1\n", "[metadata] has unknown keys 'colour'"),
    "unknown package key": (HEAD.replace("[metadata]", "licence = 1\n[metadata]"), "[package] has unknown keys"),
    "unknown table": (HEAD + "[dependencies]\nx = 1\n", "unknown tables or keys 'dependencies'"),
    "no package table": ("[metadata]\n", "no [package] table"),
    "not TOML": ("[package\n", "not TOML"),
    "no version": (HEAD.replace('version = "1.0"\n', ""), "'version' must begin"),
    "version is a number": (HEAD.replace('"1.0"', "1.0"), "'version' must begin"),
    "name leads out": (HEAD.replace('"demo"', '"../demo"'), "'name' must begin"),
    "name with a newline": (HEAD.replace('"demo"', '"demo\\n"'), "'name' must begin"),
    "no workflow name": (HEAD.replace('workflow_name = "w"\n', ""), "'workflow_name' is missing"),
    "bad workflow name": (HEAD.replace('"w"', '"w/x"'), "'workflow_name' must be"),
    "workflow name no string": (HEAD.replace('"w"', "1"), "'workflow_name' must be a string"),
    "Rust": (HEAD + 'language = "rust"\n', "Rust"),
    "other language": (HEAD + 'language = "go"\n', "'language' must be"),
    "graph": (HEAD + 'graph_name = "g"\n', "computation graph"),
    "graph module": (HEAD + 'entry_module = "demo.graph"\n', "computation graph"),
    "constructors": (HEAD + '\n[metadata.providers]\nfs = "x"\n', "WASM constructors"),
    "module not there": (HEAD + 'entry_module = "demo.other"\n', "no workflow/demo/other.py"),
    "module leads out": (HEAD + 'entry_module = "..tasks"\n', "dotted module name"),
    "newer Python": (HEAD + 'requires_python = ">=4"\n', "requires Python >=4"),
    "bad Python": (HEAD + 'requires_python = "new"\n', "version specifier"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_refusals_name_what_is_wrong(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PackageRefused) as refused:
        Manifest.read(package(tmp_path, text))
    assert message in refused.value.message


def test_layouts_that_leave_open_where_to_start_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageRefused, match="several folders"):
        Manifest.read(package(tmp_path, HEAD, "workflow/a/tasks.py", "workflow/b/tasks.py"))


def test_a_graph_module_alone_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageRefused, match="computation graph"):
        Manifest.read(package(tmp_path, HEAD, "workflow/demo/graph.py"))


def test_a_package_without_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageRefused, match=r"add workflow/demo/tasks.py"):
        Manifest.read(package(tmp_path, HEAD, "workflow/readme.txt"))


def test_a_missing_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PackageRefused, match=r"no package.toml"):
        Manifest.read(tmp_path)
