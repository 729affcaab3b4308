"""The model of a verb that takes QDQ and integer files: options that would be without effect are told."""

from __future__ import annotations

import json

import click
import numpy as np
import onnx
import pytest
from PIL import Image

from aqd_deploy.cli.main import invoke
from aqd_deploy.cli.models import integer_model_of
from aqd_deploy.cli.options import ShapeType, existing, numerics_option
from aqd_deploy.integer.manifest import MANIFEST_KEY


@click.command()
@click.argument("model", type=existing())
@numerics_option
@click.option("--shape", type=ShapeType())
def verb(model, numerics, shape):
    click.echo(len(integer_model_of(model, numerics, shape)[0].graph.node))


def said(capsys, *arguments) -> str:
    """What the verb says on stderr."""
    verb.main([str(argument) for argument in arguments], standalone_mode=False)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ((), None),
        (("--numerics", "exact"), "without effect: --numerics;"),
        (("--shape", "1x3x64x64"), "without effect: --shape;"),
        (("--numerics", "paper", "--shape", "1x3x64x64"), "without effect: --numerics and --shape;"),
    ],
)
def test_options_of_lowering_with_an_integer_file(options, told, integer_file, capsys):
    text = said(capsys, integer_file, *options)
    assert text == "" if told is None else told in text and "is integer already" in text


def test_options_of_lowering_with_a_qdq_file(qdq, tmp_path, capsys):
    onnx.save(qdq, tmp_path / "m.qdq.onnx")
    assert said(capsys, tmp_path / "m.qdq.onnx", "--numerics", "paper") == "lowering\n"


def test_detect_holds_a_file_to_its_manifest(integer, tmp_path, capsys):
    changed = onnx.ModelProto()
    changed.CopyFrom(integer)
    entry = next(each for each in changed.metadata_props if each.key == MANIFEST_KEY)
    manifest = json.loads(entry.value)
    manifest["detector"]["strides"] = manifest["detector"]["strides"][::-1]
    entry.value = json.dumps(manifest)
    onnx.save(changed, tmp_path / "m.int.onnx")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "i.png")
    words = ["detect", tmp_path / "m.int.onnx", tmp_path / "i.png", "-o", tmp_path / "out"]
    assert invoke([str(word) for word in words]) == 1
    assert "another network than the graph's at detector.strides" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
