"""Checkpoints with weights under other names, or beside other things: taken, or refused by name."""

import pytest
import torch
from tiny_detector import same, tiny_model
from torch import nn
from torch.optim.swa_utils import AveragedModel

from aqd_deploy.errors import CheckpointError, UnsupportedModelError
from aqd_deploy.qat.checkpoint import (
    checkpoint_record,
    load_checkpoint,
    read_archive,
    save_checkpoint,
)


class _Compiled(nn.Module):
    """As torch.compile keeps a network, without the seconds that it takes."""

    def __init__(self, model):
        super().__init__()
        self._orig_mod = model


@pytest.mark.parametrize("compact", [False, True])
def test_wrapped_networks_are_saved_as_themselves(tmp_path, compact):
    model, image = tiny_model(4)
    for wrapped in (nn.DataParallel(model), AveragedModel(model), _Compiled(nn.DataParallel(model))):
        save_checkpoint(tmp_path / "m.pt", wrapped, compact=compact)
        assert same(model, load_checkpoint(tmp_path / "m.pt"), image)
    with pytest.raises(UnsupportedModelError, match=r"not a detector.*Linear"):
        save_checkpoint(tmp_path / "m.pt", nn.Linear(2, 2))


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model."])
def test_prefixed_names_and_counters_are_taken(tmp_path, prefix, compact):
    model, image = tiny_model(4)
    save_checkpoint(tmp_path / "m.pt", model, compact=compact)
    content = read_archive(tmp_path / "m.pt")
    state = {}
    for name, value in content["state"].items():
        packed = "packed:" if name.startswith("packed:") else ""
        state[packed + prefix + name.removeprefix(packed)] = value
    state |= {"n_averaged": torch.tensor(3), f"{prefix}fpn.total_ops": torch.zeros(1), "total_params": 7}
    torch.save({**content, "state": state}, tmp_path / "m.pt")
    assert same(model, load_checkpoint(tmp_path / "m.pt"), image)


def test_weights_under_another_key_are_taken_with_a_description(tmp_path):
    model, image = tiny_model(4)
    save_checkpoint(tmp_path / "m.pt", model, record="seed 1")
    content = read_archive(tmp_path / "m.pt")
    state = content.pop("state")
    metrics = {"metrics": {"ap": torch.tensor(0.5)}}
    moments = {"optimizer": {"exp_avg": state, "exp_avg_sq": state}}
    for other in (
        {**content, "ema": state},
        {"ema": {**content, "state": state}, "epoch": 3},
        {**content, **metrics, "model": state},
        {**content, **metrics, **moments, "state": state},
        {**content, "ema": {"module": state, "decay": 0.9, "updates": torch.tensor(3)}},
        {**content, "state": {"module": state}},
        {"ckpt": {"model": {**content, "state": state}}, **metrics},
    ):
        torch.save(other, tmp_path / "m.pt")
        assert same(model, load_checkpoint(tmp_path / "m.pt"), image)
        assert checkpoint_record(tmp_path / "m.pt") == "seed 1"


def test_weights_without_a_description_are_refused_with_their_wrapper(tmp_path):
    model, _ = tiny_model(4)
    state = model.state_dict()
    cases = (
        (state, "without a description.*backbone.stem"),
        (
            {f"module.{name}": value for name, value in state.items()},
            "without a description.*module.backbone",
        ),
        ({"ema": state, "epoch": 3}, "without a description.*weights under ema"),
        ({"model": state, "ema": state}, "without a description.*weights under model, ema"),
        ({"config": {"lr": 0.1}, "state_dict": state}, "without a description.*weights under state_dict"),
        ({"ema": {"module": state}, "ap": {"ap": torch.zeros(1)}}, "description.*weights under ema.module;"),
        ({"epoch": 3}, "no weights"),
    )
    for content, message in cases:
        torch.save(content, tmp_path / "m.pt")
        with pytest.raises(CheckpointError, match=f"{message}.*save_checkpoint"):
            load_checkpoint(tmp_path / "m.pt")


def test_several_networks_are_refused_with_their_names(tmp_path):
    save_checkpoint(tmp_path / "m.pt", tiny_model(4)[0])
    content = read_archive(tmp_path / "m.pt")
    state = content.pop("state")
    both = {f"{who}.{name}": value for who in ("student", "teacher") for name, value in state.items()}
    for other, names in (
        ({**content, "ema": state, "model": state}, "ema, model"),
        ({"ema": {**content, "state": state}, "last": {**content, "state": state}}, "ema, last"),
        ({**content, "state": state, "ema": state}, "state, ema"),
        ({**content, "state": state, "ema": {"module": state}}, r"state, ema\.module"),
        ({**content, "state": {}, "ema": state}, "state, ema"),
        ({"a": {"b": {**content, "state": state}}, "c": {**content, "state": state}}, r"a\.b, c"),
        ({**content, "state": both}, r"student\., teacher\."),
    ):
        torch.save(other, tmp_path / "m.pt")
        with pytest.raises(CheckpointError, match=f"several networks; got {names}"):
            load_checkpoint(tmp_path / "m.pt")
