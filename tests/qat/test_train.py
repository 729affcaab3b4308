"""The training loop: it learns, resumes as if never stopped, and two processes equal one."""

import dataclasses
import json
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from aqd_deploy.errors import CheckpointError, ScaleError, TrainingError, UnsupportedModelError
from aqd_deploy.qat.archive import read_archive
from aqd_deploy.qat.checkpoint import load_checkpoint
from aqd_deploy.qat.config import parse_architecture
from aqd_deploy.qat.layers import BatchNorm
from aqd_deploy.qat.models import build_model, quantized_from_float
from aqd_deploy.qat.run_state import resume
from aqd_deploy.qat.train import TrainSettings, learning_rate_factor, make_optimizer, train, train_step

TINY = {
    "width": 0.125,
    "fpn_channels": 8,
    "head_depth": 1,
    "classes": 2,
    "image_height": 64,
    "image_width": 64,
}
BATCH = 4


def _source(iteration, rank, world):
    """Bright squares on noise, class by colour; process `rank` gets every world-th image."""
    generator = torch.Generator().manual_seed(iteration % 4)
    images = torch.randint(0, 60, (BATCH, 3, 64, 64), generator=generator)
    corner = torch.randint(4, 36, (BATCH, 2), generator=generator)
    labels = torch.randint(0, 2, (BATCH, 1), generator=generator)
    boxes = torch.cat([corner, corner + 20], dim=1)[:, None].float()
    for k in range(BATCH):
        x, y = corner[k].tolist()
        images[k, int(labels[k]), y : y + 20, x : x + 20] += 180
    mine = slice(rank, None, world)
    return images.to(torch.uint8)[mine], boxes[mine], labels[mine]


def _model(bits=None, detector="fcos"):
    """A random network; a quantized one starts from a float one whose batch norms know their statistics."""
    torch.manual_seed(0)
    model = build_model(parse_architecture(f"{detector}_r18", **TINY))
    if bits is None:
        return model
    image = model.preprocess(_source(0, 0, 1)[0])
    with torch.no_grad():
        for _ in range(20):
            model(image)
    return quantized_from_float(model, model.config.replace(bits=bits), [image])


def _losses(capsys) -> list[float]:
    lines = [line for line in capsys.readouterr().err.splitlines() if "cls" in line]
    return [float(line.split("cls ")[1].split()[0]) for line in lines]


@pytest.mark.parametrize("bits, detector", [(None, "fcos"), (2, "fcos"), (4, "retinanet")])
def test_training_lowers_the_loss(tmp_path, capsys, bits, detector):
    settings = TrainSettings(24, 4e-3, warmup=2, log_every=1)
    model = _model(bits, detector)
    nu = {name: p.detach().clone() for name, p in model.named_parameters() if name.endswith(".nu")}
    train(model, _source, settings, tmp_path)
    losses = _losses(capsys)
    assert len(losses) == 24 and losses[-1] < 0.9 * losses[0]
    assert all(not torch.equal(dict(model.named_parameters())[name], value) for name, value in nu.items())


class _Killed(Exception):
    pass


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path):
    settings = TrainSettings(6, 1e-3, warmup=2, checkpoint_every=2)
    whole = train(_model(4), _source, settings, tmp_path / "whole")

    def interrupted(iteration, rank, world):
        if iteration == 5:
            raise _Killed
        return _source(iteration, rank, world)

    with pytest.raises(_Killed):
        train(_model(4), interrupted, settings, tmp_path / "parts")
    seen = []

    def watched(iteration, rank, world):
        seen.append(iteration)
        return _source(iteration, rank, world)

    resumed = train(_model(4), watched, settings, tmp_path / "parts")
    assert seen == [4, 5]
    state = resumed.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in whole.state_dict().items())
    assert sorted(p.name for p in (tmp_path / "parts").iterdir()) == ["last.pt"]


def test_progress_of_another_run_is_refused(tmp_path):
    train(_model(), _source, TrainSettings(2), tmp_path)
    with pytest.raises(CheckpointError, match=r"another run.*networks"):
        train(_model(4), _source, TrainSettings(2), tmp_path)
    with pytest.raises(CheckpointError, match=r"another run.*seeds.*got 7; valid: 0"):
        train(_model(), _source, TrainSettings(2, seed=7), tmp_path)
    with pytest.raises(CheckpointError, match=r"further.*got 1 iterations; valid: 2 or more"):
        train(_model(), _source, TrainSettings(1), tmp_path)


def _interrupted(iteration, rank, world):
    """`_source` for one iteration, and then the end."""
    if iteration == 1:
        raise _Killed
    return _source(iteration, rank, world)


def test_progress_that_was_written_before_a_field_existed_goes_on(tmp_path):
    settings = TrainSettings(2, 1e-3, warmup=1)
    whole = train(_model(), _source, settings, tmp_path / "whole").state_dict()

    with pytest.raises(_Killed):
        train(_model(), _interrupted, dataclasses.replace(settings, checkpoint_every=1), tmp_path / "old")
    content = read_archive(tmp_path / "old" / "last.pt")
    description = json.loads(content["config"])
    del description["category_ids"], content["settings"]
    torch.save({**content, "config": json.dumps(description)}, tmp_path / "old" / "last.pt")
    resumed = train(_model(), _source, settings, tmp_path / "old").state_dict()
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


@pytest.mark.parametrize("told", [None, 3, "{"])
def test_progress_without_a_description_is_refused(tmp_path, told):
    train(_model(), _source, TrainSettings(1), tmp_path)
    content = read_archive(tmp_path / "last.pt")
    torch.save({**content, "config": told}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"descri"):
        train(_model(), _source, TrainSettings(2), tmp_path)


def test_a_resumed_run_takes_the_settings_it_is_given_and_tells_them(tmp_path, capsys):
    """Iterations, learning rate and weight decay: as an uninterrupted run that changes them there."""
    train(_model(), _source, TrainSettings(2, 1e-3, weight_decay=0.02, warmup=1), tmp_path)
    assert "continues" not in capsys.readouterr().err
    model, seen = _model(), []

    def watched(iteration, rank, world):
        seen.append(iteration)
        return _source(iteration, rank, world)

    train(model, watched, TrainSettings(4, 2e-3, weight_decay=0.5, warmup=1), tmp_path)
    assert seen == [2, 3]
    told = "after iteration 2, iterations 2 -> 4, learning_rate 0.001 -> 0.002, weight_decay 0.02 -> 0.5"
    assert told in capsys.readouterr().err
    decays = [
        group["weight_decay"] for group in read_archive(tmp_path / "last.pt")["optimizer"]["param_groups"]
    ]
    assert decays == [0.5, 0.0]


def test_progress_with_weights_that_are_not_finite_is_refused(tmp_path):
    train(_model(), _source, TrainSettings(1), tmp_path)
    content = read_archive(tmp_path / "last.pt")
    content["model"]["fpn.p6.conv.weight"][0, 0, 0, 0] = torch.nan
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"fpn\.p6\.conv\.weight.*NaN"):
        train(_model(), _source, TrainSettings(2), tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("iteration", -1),
        ("iteration", None),
        ("model", {}),
        ("optimizer", {}),
        ("rng", 3),
        ("settings", "{}"),
    ],
)
def test_progress_with_odd_content_is_refused(tmp_path, key, value):
    train(_model(), _source, TrainSettings(1), tmp_path)
    content = read_archive(tmp_path / "last.pt")
    torch.save({**content, key: value}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"not the progress of a run.*remove"):
        train(_model(), _source, TrainSettings(2), tmp_path)


def test_a_moment_of_another_shape_is_refused(tmp_path):
    train(_model(), _source, TrainSettings(1), tmp_path)
    content = read_archive(tmp_path / "last.pt")
    content["optimizer"]["state"][0]["exp_avg"] = torch.zeros(1)
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"exp_avg is \[1\]"):
        train(_model(), _source, TrainSettings(2), tmp_path)


def _first_moments(content):
    return content["optimizer"]["state"][0]


@pytest.mark.parametrize(
    ("alter", "match"),
    [
        (lambda c: _first_moments(c).pop("step"), "not the progress.*step"),
        (lambda c: _first_moments(c).pop("exp_avg_sq"), "not the progress.*exp_avg_sq is missing"),
        (lambda c: _first_moments(c)["step"].fill_(-1), "not the progress.*step is negative"),
        (lambda c: _first_moments(c)["exp_avg_sq"].fill_(-1), "not the progress.*exp_avg_sq is negative"),
        (lambda c: _first_moments(c)["exp_avg"].fill_(torch.nan), "not the progress.*exp_avg is not finite"),
        (lambda c: c["optimizer"]["state"].clear(), "not the progress.*no moments"),
        (lambda c: c.update(rng=torch.zeros(3)), "not the progress"),
        (lambda c: c["model"].pop("head.cls_score.bias"), "not the progress"),
        (lambda c: c["model"]["head.cls_score.bias"].fill_(torch.nan), "head.cls_score.bias.*NaN"),
        (lambda c: c.update(iteration=9), "further"),
        (lambda c: c.update(settings=c["settings"].replace('"seed": 0', '"seed": 5')), "seeds differ"),
    ],
)
def test_refused_progress_changes_nothing(tmp_path, alter, match):
    train(_model(), _source, TrainSettings(1), tmp_path)
    content = read_archive(tmp_path / "last.pt")
    alter(content)
    torch.save(content, tmp_path / "last.pt")
    model = _model()
    optimizer = make_optimizer(model, TrainSettings(2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    rng = torch.get_rng_state()
    with pytest.raises(CheckpointError, match=match):
        resume(tmp_path / "last.pt", model, optimizer, TrainSettings(2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not optimizer.state and torch.equal(torch.get_rng_state(), rng)


def test_progress_of_a_compiled_network_is_that_of_the_network(tmp_path):
    settings = TrainSettings(2, 1e-3, warmup=1)
    whole = train(_model(), _source, settings, tmp_path / "whole").state_dict()

    for wrap in (lambda m: torch.compile(m, backend="eager"), nn.DataParallel):
        folder = tmp_path / wrap.__name__
        with pytest.raises(_Killed):
            train(wrap(_model()), _interrupted, TrainSettings(2, 1e-3, warmup=1, checkpoint_every=1), folder)
        assert set(read_archive(folder / "last.pt")["model"]) == set(whole)
        seen = []

        def watched(iteration, rank, world, seen=seen):
            seen.append(iteration)
            return _source(iteration, rank, world)

        resumed = train(_model(), watched, settings, folder).state_dict()
        assert seen == [1]
        assert all(torch.allclose(value, whole[name], atol=1e-3) for name, value in resumed.items())


def _spoiled(name, value):
    model = _model(4)
    with torch.no_grad():
        model.state_dict()[name].fill_(value)
    return model


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: _spoiled("fpn.p6.conv.weight", torch.nan), CheckpointError, r"fpn\.p6\.conv.*NaN"),
        (lambda: _spoiled("head.cls_score.weight_quantizer.nu", 0.0), ScaleError, "step.*cls_score"),
        (lambda: _model(4).half(), CheckpointError, r"float16 numbers.*try: model\.float\(\)"),
        (lambda: _model(4).double(), CheckpointError, r"float64 numbers.*try: model\.float\(\)"),
        (lambda: nn.Sequential(_model()), UnsupportedModelError, "not a detector.*Sequential"),
        (lambda: _model().requires_grad_(False), TrainingError, "no trainable parameter.*requires_grad"),
    ],
    ids=["nan", "step", "half", "double", "sequential", "frozen"],
)
def test_networks_that_cannot_be_trained(tmp_path, make, error, match):
    with pytest.raises(error, match=match):
        train(make(), _source, TrainSettings(1), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_batch_of_one_small_image_is_refused_with_its_sizes(tmp_path):
    def single(iteration, rank, world):
        return tuple(value[:1] for value in _source(iteration, rank, world))

    with pytest.raises(TrainingError, match=r"iteration 0.*one value a channel.*got 1 image of 64x64"):
        train(_model(), single, TrainSettings(1), tmp_path)


def test_a_loss_that_is_not_finite_changes_nothing():
    """Batch norm has taken the batch into its statistics by the time that the loss is known."""
    model = _model().train()
    with torch.no_grad():
        model.backbone.stem.conv.weight.fill_(torch.inf)
    optimizer = make_optimizer(model, TrainSettings(1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(TrainingError, match="loss is not finite"):
        train_step(model, optimizer, *_source(0, 0, 1), 10.0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
def test_a_gradient_that_is_not_finite_changes_no_weight(tmp_path, value):
    """Clipping by an infinite norm would make every weight NaN; the last good state stays, and goes on."""
    settings = TrainSettings(3, 1e-3, warmup=1, checkpoint_every=1)

    def poisoned(iteration, rank, world):
        if iteration == 1:
            model.fpn.p6.conv.weight.register_hook(lambda gradient: torch.full_like(gradient, value))
        return _source(iteration, rank, world)

    model = _model()
    with pytest.raises(TrainingError, match=r"iteration 1: the gradient is not finite.*learning rate"):
        train(model, poisoned, settings, tmp_path)
    kept = read_archive(tmp_path / "last.pt")
    assert kept["iteration"] == 1
    assert all(torch.equal(p, kept["model"][name]) for name, p in model.named_parameters())
    whole = train(_model(), _source, settings, tmp_path / "whole").state_dict()
    resumed = train(_model(), _source, settings, tmp_path).state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in resumed.items())


def test_weights_that_are_not_finite_are_not_saved_as_progress(tmp_path):
    def broken(iteration, rank, world):
        if iteration == 1:
            model.backbone.layer4[1].conv2.bn.running_mean.fill_(torch.inf)
        return _source(iteration, rank, world)

    model = _model()
    with pytest.raises(CheckpointError, match=r"running_mean of the network after iteration 2"):
        train(model, broken, TrainSettings(2, checkpoint_every=1), tmp_path)
    assert read_archive(tmp_path / "last.pt")["iteration"] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"iterations": 0}, {"iterations": 2.5}, {"learning_rate": -1e-3}, {"learning_rate": float("nan")},
        {"weight_decay": float("inf")}, {"warmup": -1}, {"clip_norm": 0.0}, {"checkpoint_every": 0},
        {"log_every": 0}, {"learning_rate": 1e39}, {"weight_decay": 1e39},
    ],
)  # fmt: skip
def test_settings_out_of_range(changes):
    (key,) = changes
    with pytest.raises(TrainingError, match=f"training settings.*{key}"):
        TrainSettings(**{"iterations": 1, **changes})


def test_progress_is_a_checkpoint_too(tmp_path):
    model = train(_model(4), _source, TrainSettings(1), tmp_path)
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert loaded.config == model.config
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in loaded.state_dict().items())


def test_a_damaged_progress_file_is_refused(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(CheckpointError):
        train(_model(), _source, TrainSettings(1), tmp_path)


def test_learning_rate_rises_and_falls():
    settings = TrainSettings(100, warmup=10)
    factors = [learning_rate_factor(i, settings) for i in range(101)]
    assert factors[0] == 0.1 and factors[10] == 1.0 and factors[100] == pytest.approx(0)
    assert factors[:11] == sorted(factors[:11]) and factors[10:] == sorted(factors[10:], reverse=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _worker(rank: int, world: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)
    norm = BatchNorm(3).train()
    norm.synchronized = True
    x = (torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 3 + 100)[rank::world]
    x.requires_grad_(True)
    y = norm(x)
    (y**3).sum().backward()
    model = _model(4)
    train(model, _source, TrainSettings(2, 1e-3, warmup=1), Path(folder) / "run")
    torch.save(
        {
            "y": y.detach(),
            "gradient": x.grad,
            "mean": norm.running_mean,
            "variance": norm.running_var,
            "model": model.state_dict(),
        },
        f"{folder}/rank{rank}.pt",
    )
    dist.destroy_process_group()


def test_two_processes_equal_one(tmp_path):
    """Batch statistics, their gradients and two training steps over two halves of a batch equal those over
    the whole batch, up to the order of float32 sums."""
    mp.spawn(_worker, args=(2, _free_port(), str(tmp_path)), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    norm = BatchNorm(3).train()
    x = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(0)) * 3 + 100
    x.requires_grad_(True)
    y = norm(x)
    (y**3).sum().backward()
    for rank, got in enumerate(ranks):
        assert torch.allclose(got["y"], y[rank::2], atol=1e-4)
        assert torch.allclose(got["gradient"], x.grad[rank::2], atol=1e-3)
        assert torch.allclose(got["mean"], norm.running_mean, rtol=1e-5)
        assert torch.allclose(got["variance"], norm.running_var, rtol=1e-4)
    weights = [got["model"] for got in ranks]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    whole = train(_model(4), _source, TrainSettings(2, 1e-3, warmup=1), tmp_path / "single").state_dict()
    stem = "backbone.stem.bn.running_mean"
    assert torch.allclose(weights[0][stem], whole[stem], rtol=1e-3, atol=1e-3)
    for name in ("head.cls_score.bias", "backbone.stem.conv.weight"):
        assert float((weights[0][name] - whole[name]).abs().mean()) < 5e-4  # two steps of 1e-3 with Adam
