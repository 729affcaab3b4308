"""Checkpoints: exact round trips, compact size, and every file that must be refused."""

import argparse
import json
import pickle
import resource
import zipfile

import numpy as np
import pytest
import torch
from tiny_detector import TINY, same, tiny_model
from torch import nn

from aqd_deploy.errors import CheckpointError, ScaleError
from aqd_deploy.frontends.torch_qdq import export_qdq
from aqd_deploy.qat.checkpoint import (
    checkpoint_record,
    load_checkpoint,
    pack_bits,
    read_archive,
    save_checkpoint,
    unpack_bits,
)
from aqd_deploy.qat.config import ModelConfig, parse_architecture
from aqd_deploy.qat.models import build_model
from aqd_deploy.qat.wrapped import ANCHOR


@pytest.mark.parametrize("bits", [None, 2, 4])
def test_full_checkpoint_round_trip(tmp_path, bits):
    model, image = tiny_model(bits)
    save_checkpoint(tmp_path / "m.pt", model, record="seed 1")
    restored = load_checkpoint(tmp_path / "m.pt")
    assert restored.config == model.config
    assert not restored.training
    assert same(model, restored, image)
    assert checkpoint_record(tmp_path / "m.pt") == "seed 1"


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("standardize", [False, True])
def test_compact_checkpoint_is_the_same_network(tmp_path, bits, standardize):
    """Outputs are equal bit for bit: integers, steps and norms are."""
    model, image = tiny_model(bits, weight_standardization=standardize)
    save_checkpoint(tmp_path / "m.pt", model, compact=True)
    assert same(model, load_checkpoint(tmp_path / "m.pt"), image)


def test_compact_float_checkpoint_is_half_precision(tmp_path):
    model, image = tiny_model(None)
    save_checkpoint(tmp_path / "m.pt", model, compact=True)
    restored = load_checkpoint(tmp_path / "m.pt")
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data = parameter.data.half().float()
    assert same(model, restored, image)


def test_compact_files_shrink_with_the_bits(tmp_path):
    sizes = {}
    for bits in (None, 8, 4, 2):
        model, _ = tiny_model(bits, width=0.25, fpn_channels=64)
        save_checkpoint(tmp_path / "m.pt", model, compact=True)
        sizes[bits] = (tmp_path / "m.pt").stat().st_size / sum(p.numel() for p in model.parameters())
    assert sizes[None] < 2.4 and sizes[8] < 1.4 and sizes[4] < 0.85 and sizes[2] < 0.6


@pytest.mark.parametrize("bits", range(2, 9))
def test_packing_round_trip(bits):
    values = torch.randint(
        0, 2**bits, (37,), generator=torch.Generator().manual_seed(bits), dtype=torch.int32
    )
    packed = pack_bits(values, bits)
    assert packed.numel() == (37 * bits + 7) // 8
    assert torch.equal(unpack_bits(packed, bits, 37), values)
    with pytest.raises(CheckpointError, match="wrong length"):
        unpack_bits(packed[:-1], bits, 37)


class _Payload:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_pickled_code_is_not_run(tmp_path, capsys):
    torch.save({"state": _Payload()}, tmp_path / "code.pt")
    with pytest.raises(CheckpointError, match="pickled code"):
        load_checkpoint(tmp_path / "code.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(_Payload()))
    with pytest.raises(CheckpointError):
        load_checkpoint(tmp_path / "plain.pt")
    assert "never run" not in capsys.readouterr().out


def test_truncated_files_are_refused(tmp_path):
    model, _ = tiny_model(4)
    path = tmp_path / "m.pt"
    save_checkpoint(path, model)
    content = path.read_bytes()
    for kept in (0, 1, 2, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:kept])
        with pytest.raises(CheckpointError, match=r"truncated|not a torch checkpoint"):
            load_checkpoint(path)


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "x.pt"
    path.write_text("this is a text")
    with pytest.raises(CheckpointError, match="not a torch checkpoint"):
        load_checkpoint(path)
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "absent.pt")
    torch.save(torch.zeros(3), path)
    with pytest.raises(CheckpointError, match="dictionary"):
        load_checkpoint(path)
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="not a checkpoint of aqd-deploy"):
        load_checkpoint(path)


def test_dictionaries_that_hold_themselves(tmp_path):
    content = {str(index): {} for index in range(30)}
    for inner in content.values():
        inner.update(content)
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="no weights"):
        load_checkpoint(tmp_path / "m.pt")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torch_script_is_called_by_its_name(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=r"TorchScript.*save_checkpoint"):
        load_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize("detector", ["fcos", "retinanet"])
@pytest.mark.parametrize("backbone", ["r18", "r50"])
def test_the_name_that_weights_are_known_by(detector, backbone):
    with torch.device("meta"):
        model = build_model(parse_architecture(f"{detector}_{backbone}", **TINY))
    assert ANCHOR in model.state_dict()


@pytest.mark.parametrize("wrapper", [None, "model", "state_dict"])
def test_group_norm_is_refused_with_the_reason(tmp_path, wrapper):
    state = {"head.cls_tower.0.weight": torch.zeros(2, 2, 3, 3), "head.cls_tower.0.gn.weight": torch.ones(2)}
    torch.save({wrapper: state} if wrapper else state, tmp_path / "gn.pt")
    with pytest.raises(CheckpointError, match=r"GroupNorm.*statistics on every image.*multi-level"):
        load_checkpoint(tmp_path / "gn.pt")


def test_norms_without_statistics_are_group_norm(tmp_path):
    """A GroupNorm under a batch norm's name: weight and bias, no running mean."""
    model, _ = tiny_model(4)
    save_checkpoint(tmp_path / "m.pt", model)
    content = read_archive(tmp_path / "m.pt")
    for key in [k for k in content["state"] if k.startswith("head.") and ("running" in k or "num_b" in k)]:
        del content["state"][key]
    torch.save(content, tmp_path / "gn.pt")
    with pytest.raises(CheckpointError, match="GroupNorm"):
        load_checkpoint(tmp_path / "gn.pt")


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("version", 99, "another version"),
        ("config", "{", "not JSON"),
        ("config", '{"schema": 7}', "unknown schema"),
        ("config", '{"schema": 1, "colour": 3}', "unknown fields"),
        ("config", '{"schema": 1, "bits": 77}', "impossible values"),
        ("config", '{"schema": 1, "class_names": 3}', "impossible values"),
        ("state", {"backbone.stem.conv.weight": "text"}, "tensors only"),
    ],
)
def test_altered_descriptions_are_refused(tmp_path, key, value, message):
    model, _ = tiny_model(4)
    save_checkpoint(tmp_path / "m.pt", model)
    content = read_archive(tmp_path / "m.pt")
    content[key] = value
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "m.pt")


def test_weights_of_another_network_are_refused(tmp_path):
    model, _ = tiny_model(4)
    save_checkpoint(tmp_path / "m.pt", model)
    content = read_archive(tmp_path / "m.pt")
    content["config"] = model.config.replace(fpn_channels=16).to_json()
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="not those of its own description"):
        load_checkpoint(tmp_path / "m.pt")


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    model, image = tiny_model(4)
    path = tmp_path / "m.pt"
    save_checkpoint(path, model)
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("No space left on device")))
    with pytest.raises(OSError, match="No space"):
        save_checkpoint(path, model)
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["m.pt"]
    assert same(model, load_checkpoint(path), image)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("width", "wide"),
        ("width", -1),
        ("width", 1e300),
        ("fpn_channels", 2.5),
        ("head_depth", 10**9),
        ("classes", [3]),
        ("bits", "4"),
        ("image_height", "64"),
        ("image_height", 1 << 40),
        ("strides", [8, 16, 32]),
        ("mean", 104),
        ("class_names", 3),
        ("anchor_scales", ["x"]),
        ("weight_standardization", 1),
        ("detector", []),
        ("mean", [104, 116, 300]),
        ("p6_from", 5),
        ("stride_in_1x1", 1),
        ("cell_offset", 1.5),
        ("anchor_sides", [[32, 32]]),
        ("layer_bits", [["fpn.p6.conv", 4]]),
        ("layer_bits", [["fpn.p6.conv", 4, 9]]),
    ],
)
def test_descriptions_of_wrong_types(key, value):
    description = json.loads(tiny_model(None)[0].config.to_json())
    with pytest.raises(CheckpointError, match=rf"impossible values.*{key}"):
        ModelConfig.from_json(json.dumps({**description, key: value}))


def test_a_description_that_is_nested_too_deep():
    with pytest.raises(CheckpointError, match="not JSON"):
        ModelConfig.from_json("[" * 100_000)


L = "backbone.layer1.0.conv1."


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (L + "conv.weight", torch.nan, "conv1.conv.weight.*got NaN"),
        (L + "conv.weight", torch.inf, "conv1.conv.weight.*got infinity"),
        (L + "bn.weight", torch.nan, "conv1.bn.weight.*NaN"),
        (L + "bn.running_mean", -torch.inf, "conv1.bn.running_mean.*infinity"),
        (L + "bn.running_var", -1.0, "conv1.bn.running_var.*a variance of -1"),
        ("head.cls_score.bias", torch.nan, "head.cls_score.bias.*NaN"),
        ("head.scales.0.log_scale", 200.0, "head.scales.0.log_scale.*a factor of inf"),
        ("head.scales.0.log_scale", -200.0, "head.scales.0.log_scale.*a factor of 0"),
        (L + "conv.weight_quantizer.nu", 1e-45, "step.*conv1.conv.weight_quantizer of the network"),
        (L + "conv.activation_quantizer.nu", torch.nan, "step.*conv1.conv.activation_quantizer.*nan"),
    ],
)
def test_networks_that_cannot_be_saved_or_exported(tmp_path, name, value, message, compact):
    """What no integer can stand for is named where it is saved and where it is exported; no file appears."""
    model, _ = tiny_model(4)
    with torch.no_grad():
        model.state_dict()[name].view(-1)[0] = value
    with pytest.raises((CheckpointError, ScaleError), match=message):
        save_checkpoint(tmp_path / "m.pt", model, compact=compact)
    assert not list(tmp_path.iterdir())
    with pytest.raises((CheckpointError, ScaleError), match=message):
        export_qdq(model)


def test_weights_too_large_to_be_standardised(tmp_path):
    model, _ = tiny_model(4, weight_standardization=True)
    with torch.no_grad():
        model.backbone.layer1[0].conv1.conv.weight.fill_(3e38)
    with pytest.raises(CheckpointError, match=r"conv1\.conv\.weight.*standardised"):
        save_checkpoint(tmp_path / "m.pt", model)


@pytest.mark.parametrize("value", [1e5, -1e5, 1e-6])
def test_compact_weights_that_half_precision_does_not_hold(tmp_path, value):
    model, image = tiny_model(None)
    with torch.no_grad():
        model.fpn.p6.conv.weight.fill_(value)
    with pytest.raises(CheckpointError, match=r"fpn\.p6\.conv\.weight.*half precision.*without compact"):
        save_checkpoint(tmp_path / "m.pt", model, compact=True)
    save_checkpoint(tmp_path / "m.pt", model)
    assert same(model, load_checkpoint(tmp_path / "m.pt"), image)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_networks_of_another_type_are_refused(tmp_path, dtype):
    with pytest.raises(CheckpointError, match=f"{dtype} numbers.*float32"):
        save_checkpoint(tmp_path / "m.pt", tiny_model(4)[0].to(dtype))


def test_a_network_that_is_not_the_one_of_its_description_is_not_saved(tmp_path):
    model, _ = tiny_model(4)
    model.config = model.config.replace(classes=5)
    with pytest.raises(CheckpointError, match=r"not those of its own description.*cls_score"):
        save_checkpoint(tmp_path / "m.pt", model)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("fpn.p6.conv.weight", 1e39, "infinity"),  # finite in the file's float64
        (L + "bn.running_var", -1.0, "a variance of -1"),
        (L + "conv.activation_quantizer.nu", 0.0, "step"),
    ],
)
def test_files_with_numbers_out_of_range(tmp_path, name, value, error):
    save_checkpoint(tmp_path / "m.pt", tiny_model(4)[0])
    content = read_archive(tmp_path / "m.pt")
    content["state"][name] = torch.full_like(content["state"][name], value, dtype=torch.float64)
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises((CheckpointError, ScaleError), match=error) as caught:
        load_checkpoint(tmp_path / "m.pt")
    assert str(tmp_path / "m.pt") in str(caught.value)


@pytest.mark.parametrize("record", [{"AP": 0.5}, b"seed 1", None, 3, np.float64(0.5)])
def test_a_record_that_is_no_text_is_refused(tmp_path, record):
    with pytest.raises(CheckpointError, match=rf"record.*text; got {type(record).__name__}"):
        save_checkpoint(tmp_path / "m.pt", tiny_model(4)[0], record=record)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_no_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="a checkpoint is a file; got the folder"):
        save_checkpoint(tmp_path, tiny_model(4)[0])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (nn.Linear(2, 2), r"torch\.nn\.modules\.linear\.Linear"),
        (argparse.Namespace(lr=1), r"argparse\.Namespace"),
        (np.float64(0.5), r"numpy\._core\.multiarray\.scalar"),
        (eval, r"builtins\.eval"),
    ],
    ids=["module", "namespace", "number", "function"],
)
@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_is_refused_with_the_name_of_the_object(tmp_path, value, name, zipped):
    torch.save({"state": value}, tmp_path / "m.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=f"pickled.*got {name};.*save_checkpoint"):
        load_checkpoint(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (torch.full((8, 3, 7, 7), torch.nan), "NaN or infinity"),
        (torch.zeros(8, 3, 7, 7, dtype=torch.complex64), "complex numbers"),
        (torch.zeros(8, 3, 7, 7).to(torch.float8_e4m3fn), "float8_e4m3fn numbers"),
        (torch.zeros(8, 3, 7, 7).to_sparse(), "not a plain tensor"),
        (torch.zeros(8, 3, 7, 6), r"is \[8, 3, 7, 6\], not \[8, 3, 7, 7\]"),
        (torch.zeros(1).expand(10**6, 10**6), "1000000000000 numbers of which the file has fewer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_tensors_that_the_network_cannot_have(tmp_path, tensor, message):
    save_checkpoint(tmp_path / "m.pt", tiny_model(4)[0])
    content = read_archive(tmp_path / "m.pt")
    assert content["state"]["backbone.stem.conv.weight"].shape == (8, 3, 7, 7)
    content["state"]["backbone.stem.conv.weight"] = tensor
    torch.save(content, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "m.pt")


def test_a_network_larger_than_its_file_is_not_built(tmp_path):
    """Its description says 600 MB a layer, its tensors do not."""
    save_checkpoint(tmp_path / "m.pt", tiny_model(4)[0])
    content = read_archive(tmp_path / "m.pt")
    description = json.loads(content["config"])
    content["config"] = json.dumps({**description, "fpn_channels": 4096, "head_depth": 64})
    torch.save(content, tmp_path / "m.pt")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="not those of its own description"):
        load_checkpoint(tmp_path / "m.pt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_an_archive_that_says_it_inflates_to_much(tmp_path):
    with zipfile.ZipFile(tmp_path / "m.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(100 << 20))
    with pytest.raises(CheckpointError, match=r"far more than it does.*100 MB"):
        load_checkpoint(tmp_path / "m.pt")
