"""What errors tell people to type can be typed: every `next_command` of the library, read from its source.

A text is advice in plain English in which commands may stand: `aqd-deploy ...` as the command line takes it,
with names in capitals for files; `apt-get install`, `pip install`, `python -m` of things that exist; and "the
same command" with or without an option that there is.
"""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from aqd_deploy.cli.main import VERBS, cli, invoke
from aqd_deploy.devices import ssh, ssh_client

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for name in ("aqd_deploy", "passes", "targets") for path in (ROOT / name).rglob("*.py"))
# Where the text stands in a call without its name.
POSITIONS = {"FileKind": 4, "error.of": 2, "failure": 3, "files.failure": 3, "Peer": 3}
# What hands on a text that stands elsewhere.
HANDED_ON = re.compile(
    r"(self|error|peer)\.(next_command|install)|next_command|told\(.*\)|check\.get\(.*\)|advice\.format\(.*\)"
    r"|' or '\.join\(advice\)|\w+(\[0\])?\['next_command'\]|advice|instead|None"
)
# Packages of Debian.
APT = {
    "g++", "g++-aarch64-linux-gnu", "g++-arm-linux-gnueabihf", "g++-x86-64-linux-gnu", "llvm",
    "libstdc++6-arm64-cross", "libstdc++6-armhf-cross", "openssh-client", "qemu-user-static",
}  # fmt: skip
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


class Source:
    """A module, to read texts from as they will be: names stand for their values, what is only known when the
    program runs for `X`.
    """

    def __init__(self, path: Path) -> None:
        self.tree = ast.parse(path.read_text())
        self.parents = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}

    def texts(self, node: ast.expr | None) -> Iterator[str]:
        """Every text that an expression may be. Fails for what cannot be read."""
        match node:
            case None:
                return
            case ast.Constant(value=str(text)):
                yield text
            case ast.Constant(value=None):
                return
            case ast.JoinedStr(values=parts):
                yield "".join(self._part(part) for part in parts)
            case ast.IfExp(body=body, orelse=other):
                yield from self.texts(body)
                yield from self.texts(other)
            case ast.BoolOp(values=values):
                for value in values:
                    yield from self.texts(value)
            case ast.Call(func=ast.Attribute(attr="instead")):
                return
            case ast.Dict(values=values) | ast.List(elts=values) | ast.Tuple(elts=values):
                for value in values:
                    yield from self.texts(value)
            case ast.Call(func=ast.Attribute(attr="get", value=ast.Name() as table), args=[_, default]):
                yield from self.texts(self._value(table))
                yield from self.texts(default)
            case ast.Call(func=ast.Name(id="next"), args=[ast.GeneratorExp(elt=element), default]):
                yield from self.texts(element)
                yield from self.texts(default)
            case ast.Subscript(value=ast.Name() as table):
                yield from self.texts(self._value(table))
            case ast.Call(func=ast.Attribute(attr="join"), args=[ast.Call(func=ast.Name(id=name))]):
                yield from self.texts(self._returned(name))
            case ast.Call(func=ast.Name(id=name)) if not HANDED_ON.fullmatch(ast.unparse(node)):
                yield from self.texts(self._returned(name))
            case ast.Name() if self._value(node) is not None:
                yield from self.texts(self._value(node))
            case _:
                assert HANDED_ON.fullmatch(ast.unparse(node)), f"cannot be read: {ast.unparse(node)}"

    def _part(self, part: ast.expr) -> str:
        if isinstance(part, ast.Constant):
            return str(part.value)
        value = self._value(part.value) if isinstance(part, ast.FormattedValue) else None
        return next(self.texts(value), "X") if isinstance(value, ast.Constant | ast.IfExp) else "X"

    def _value(self, node: ast.expr) -> ast.expr | None:
        """What a name is set to in its function, in the module, or in the module that it comes from."""
        if not isinstance(node, ast.Name):
            return None
        place: ast.AST | None = node
        while place is not None:
            for each in getattr(place, "body", []) if not isinstance(place, ast.IfExp | ast.Lambda) else []:
                found = _assigned(each, node.id)
                if found is not None:
                    return found
            place = self.parents.get(place)
        for each in self.tree.body:
            if isinstance(each, ast.ImportFrom) and node.id in [alias.name for alias in each.names]:
                origin = importlib.util.find_spec(each.module).origin
                return Source(Path(origin))._value_at_top(node.id)
        return None

    def _value_at_top(self, name: str) -> ast.expr | None:
        return next((v for each in self.tree.body if (v := _assigned(each, name)) is not None), None)

    def _returned(self, name: str) -> ast.expr | None:
        for each in ast.walk(self.tree):
            if isinstance(each, ast.FunctionDef) and each.name == name:
                return next(node.value for node in ast.walk(each) if isinstance(node, ast.Return))
            if isinstance(each, ast.ImportFrom) and name in [alias.name for alias in each.names]:
                return Source(Path(importlib.util.find_spec(each.module).origin))._returned(name)
        raise AssertionError(f"no function {name}")


def _assigned(statement: ast.AST, name: str) -> ast.expr | None:
    if isinstance(statement, ast.Assign) and any(ast.unparse(t) == name for t in statement.targets):
        return statement.value
    return None


def advice_in(path: Path) -> Iterator[str]:
    """The texts of one module."""
    source = Source(path)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.keyword) and node.arg in ("next_command", "install"):
            yield from source.texts(node.value)
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "next_command":
                    yield from source.texts(value)
        elif isinstance(node, ast.Call):
            place = POSITIONS.get(ast.unparse(node.func))
            if place is not None and len(node.args) > place:
                yield from source.texts(node.args[place])


ADVICE = {text: path for path in SOURCES for text in advice_in(path)}
for _, _, text in (*ssh_client._FAILURES, ssh_client._LOST[-1:] * 3, *ssh._CACHE_FAILURES):
    ADVICE[text.format("USER@HOST", "-p 22 ")] = ROOT / "aqd_deploy" / "runtime" / "devices"


def options() -> set[str]:
    context = click.Context(cli)
    found = {"--debug"}
    for verb in VERBS:
        for parameter in cli.get_command(context, verb).params:
            found.update(parameter.opts)
    return found


def commands(text: str, name: str) -> list[list[str]]:
    """Words behind `name`, up to where plain English goes on."""
    found = re.findall(rf"(?<![\w/-]){re.escape(name)} (.*?)(?:[,;:)] ?| or | and | in the clone|$)", text)
    return [shlex.split(each) for each in found]


def test_there_is_advice():
    assert len(ADVICE) > 50
    assert any(commands(text, "aqd-deploy") for text in ADVICE)


@pytest.mark.parametrize("text", ADVICE)
def test_it_can_be_typed(text):
    # What stands there is known when the program runs; of a shape it is not any text.
    for verb, *words in commands(text.replace("--shape X", "--shape 1x3x320x320"), "aqd-deploy"):
        assert verb in VERBS, text
        parent = click.Context(cli, **cli.context_settings)
        cli.get_command(parent, verb).make_context(verb, words, parent)
    for words in commands(text, "apt-get"):
        assert words[0] == "install" and set(words[1:]) <= APT | {"X"}, text
    for words in commands(text, "pip"):
        check_pip(words)
    for _, module, *_ in (words for words in commands(text, "python") if words[0] == "-m"):
        assert module == "ensurepip" or importlib.util.find_spec(module.split(".")[0]) is not None
    for same in re.findall(r"the same command (with|without) (.*)", text):
        for option in re.findall(r"(?<!\S)--[\w-]+", same[1]):
            assert option in options(), text
        for variable in re.findall(r"\b([A-Z_]{3,})=", same[1]):
            assert variable in ("TMPDIR", "XDG_CACHE_HOME"), text
    known = r"aqd-deploy|apt-get|pip|python|mkdir|ssh|the same command|qemu"
    if "--" in text:
        assert re.search(known, text), f"an option of what? {text}"


def check_pip(words: list[str]) -> None:
    verb, *words = words
    if verb == "download":
        return
    assert verb == "install"
    for word in words:
        if word in ("-e", "-U", "--upgrade", "aqd-deploy", "X"):
            continue
        name, _, extra = word.removesuffix("]").partition("[")
        if extra:
            assert name in ("aqd-deploy", ".")
            assert extra == "X" or extra in PROJECT["optional-dependencies"]
        else:
            assert any(re.match(rf"{name}\b", each) for each in PROJECT["dependencies"])


@pytest.mark.parametrize(
    "bad",
    [
        "aqd-deploy lower",
        "aqd-deploy export fcos_r18",
        "aqd-deploy lowr F -o O",
        "aqd-deploy lower FILE --shape 320 -o OUT",
        "apt-get install gpp",
        "pip install 'aqd-deploy[gpu]'",
        "the same command with --fast",
    ],
)
def test_what_cannot_be_typed_is_found(bad):
    with pytest.raises((AssertionError, click.UsageError)):
        test_it_can_be_typed(bad)


@pytest.mark.parametrize("name", ["nonsense", "onnx"])
def test_a_ratio_to_a_peer_that_does_not_exist(name, capsys):
    """Measured or not, there is no command that would measure it."""
    assert invoke(["bench", "m.so", "--max-ratio", f"{name}=0.5"]) == 1
    told = capsys.readouterr().err
    assert f"unknown peer; got '{name}'; valid: onnxruntime" in told and f"--against {name}" not in told


def test_paths_in_advice_can_be_pasted(tmp_path):
    from aqd_deploy.bench.qdq_file import find_qdq
    from aqd_deploy.errors import AqdError

    with pytest.raises(AqdError) as caught:
        find_qdq(tmp_path / "my program.so", {})
    words = shlex.split(caught.value.next_command)
    assert words[:3] == ["aqd-deploy", "bench", str(tmp_path / "my program.so")]
