"""Imports run one way: every import of this project, also those within functions and through the mapped
names `aqd_deploy.passes` and `aqd_deploy.targets`, goes down the list of layers, and no modules import each
other in a circle (but for types alone: `if TYPE_CHECKING`).
"""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from needing import ROOT

# From the bottom to the top. Parts of one layer do not import each other; a part is a folder, or a module
# that lies beside the folders.
LAYERS = (
    ("aqd_deploy", "errors", "processes"),
    ("densities", "files", "inputs", "schema", "tables"),
    ("arrays",),
    ("own_files",),
    ("integer", "targets", "detection"),
    ("qat",),
    ("environment", "passes", "kernels", "frontends", "runtime"),
    ("quantization",),
    ("records",),
    ("compiler",),
    ("bundle",),
    ("devices",),
    ("bench", "tuning", "evaluation"),
    ("reporting",),
    ("workflow",),
    ("cli",),
    ("__main__",),
)
RANKS = {part: rank for rank, layer in enumerate(LAYERS) for part in layer}
FOLDERS = {
    "aqd_deploy": ROOT / "aqd_deploy",
    "aqd_deploy.passes": ROOT / "passes",
    "aqd_deploy.targets": ROOT / "targets",
}


def modules(folders: dict[str, Path]) -> dict[str, Path]:
    """Every module by its name."""
    found = {}
    for package, folder in folders.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join([package, *(part for part in parts if part != "__init__")])] = path
    return found


class _ForTypesAlone(ast.NodeTransformer):
    """Takes the blocks `if TYPE_CHECKING:` out."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.test) == "TYPE_CHECKING" else node


def imports_of(name: str, path: Path, known: dict[str, Path], for_types: bool = True) -> set[str]:
    """The modules of `known` that the module imports, wherever in it, also those `for_types` alone;
    `from package import module` is an import of the module alone.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    tree = tree if for_types else _ForTypesAlone().visit(tree)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([base] if base else [])])
            found |= {
                f"{base}.{alias.name}" if f"{base}.{alias.name}" in known else base for alias in node.names
            }
    return (found & set(known)) - {name}


def part_of(name: str) -> str:
    """The folder of a module, or the module where it lies beside the folders; of the package, itself."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "aqd_deploy"


def arrows_back(folders: dict[str, Path]) -> list[str]:
    """Imports that do not go down, as `importer -> imported`."""
    known = modules(folders)
    back = []
    for name, path in known.items():
        for imported in imports_of(name, path, known):
            here, there = part_of(name), part_of(imported)
            if here != there and RANKS.get(there, len(LAYERS)) >= RANKS.get(here, -1):
                back.append(f"{name} -> {imported}")
    return sorted(back)


def circle(folders: dict[str, Path]) -> list[str]:
    """The modules of one circle, none where there is no circle."""
    known = modules(folders)
    try:
        arrows = {name: imports_of(name, path, known, for_types=False) for name, path in known.items()}
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_every_part_has_its_layer():
    assert {part_of(name) for name in modules(FOLDERS)} == set(RANKS)


def test_no_import_runs_back():
    assert arrows_back(FOLDERS) == []


def test_no_modules_import_each_other():
    assert circle(FOLDERS) == []


@pytest.mark.parametrize(
    ("module", "text", "arrow"),
    [
        ("targets/cpu.py", "def f():\n    from aqd_deploy.cli.main import cli\n", "targets.cpu -> cli.main"),
        ("targets/cpu.py", "import aqd_deploy.passes.read\n", "targets.cpu -> passes.read"),
        ("passes/read.py", "from ..cli import main\n", "passes.read -> cli.main"),
        ("aqd_deploy/errors.py", "from aqd_deploy import targets\n", "errors -> targets"),
        ("aqd_deploy/newcomer.py", "from aqd_deploy import errors\n", "newcomer -> errors"),
    ],
)
def test_an_arrow_back_is_found(tmp_path, module, text, arrow):
    for path in (
        "aqd_deploy/errors.py",
        "aqd_deploy/cli/main.py",
        "targets/cpu.py",
        "passes/read.py",
        module,
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "targets" / "__init__.py").touch()
    (tmp_path / module).write_text(text)
    folders = {name: tmp_path / folder.relative_to(ROOT) for name, folder in FOLDERS.items()}
    assert arrows_back(folders) == [" -> ".join(f"aqd_deploy.{end}" for end in arrow.split(" -> "))]


def test_a_circle_is_found(tmp_path):
    (tmp_path / "a.py").write_text("def f():\n    from aqd_deploy import b\n    b\n")
    (tmp_path / "b.py").write_text("import aqd_deploy.a\n")
    assert set(circle({"aqd_deploy": tmp_path})) == {"aqd_deploy.a", "aqd_deploy.b"}
    (tmp_path / "b.py").write_text("if TYPE_CHECKING:\n    import aqd_deploy.a\n")
    assert circle({"aqd_deploy": tmp_path}) == []
