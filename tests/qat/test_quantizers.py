"""The quantizers against their formulas, in exact arithmetic where that is possible."""

from fractions import Fraction

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aqd_deploy.errors import ScaleError
from aqd_deploy.qat.quantizers import ActivationQuantizer, WeightQuantizer

floats = st.floats(-8, 8, width=32, allow_nan=False)
bit_widths = st.integers(2, 8)
clips = st.floats(0.015625, 16, width=32)


def _activation(bits: int, nu: float) -> ActivationQuantizer:
    quantizer = ActivationQuantizer(bits)
    with torch.no_grad():
        quantizer.nu.fill_(nu)
    return quantizer


def _weight(bits: int, nu: float) -> WeightQuantizer:
    quantizer = WeightQuantizer(bits)
    with torch.no_grad():
        quantizer.nu.fill_(nu)
    return quantizer


@given(bit_widths, clips, st.lists(floats, min_size=1, max_size=20))
def test_activation_is_the_integer_times_the_step(bits, nu, values):
    quantizer = _activation(bits, nu)
    x = torch.tensor(values)
    q = quantizer.integer(x)
    assert q.dtype == torch.uint8
    assert int(q.max()) <= 2**bits - 1
    assert torch.equal(quantizer(x), q.to(torch.float32) * quantizer.step())


@given(bit_widths, clips, floats)
def test_activation_rounds_to_the_nearest_level(bits, nu, value):
    """Against exact rationals: no other level is closer, but for the rounding of x/step to float32."""
    quantizer = _activation(bits, nu)
    step = Fraction(float(quantizer.step()))
    exact = min(max(Fraction(value) / step, Fraction(0)), Fraction(2**bits - 1))
    q = int(quantizer.integer(torch.tensor([value]))[0])
    assert abs(exact - q) <= Fraction(1, 2) + Fraction(1, 2**14)


def test_activation_ties_go_to_even():
    quantizer = _activation(2, 3.0)
    assert quantizer.integer(torch.tensor([0.5, 1.5, 2.5, -0.5, 9.0])).tolist() == [0, 2, 2, 0, 3]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_activation_agrees_with_onnxruntime(bits):
    """QuantizeLinear, Clip, DequantizeLinear of onnxruntime give the same floats, bit for bit."""
    quantizer = _activation(bits, 1.7)
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0)) * 1.5
    helper = onnx.helper
    graph = helper.make_graph(
        [
            helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["q"]),
            helper.make_node("Clip", ["q", "zero", "top"], ["c"]),
            helper.make_node("DequantizeLinear", ["c", "step", "zero"], ["y"]),
        ],
        "quantizer",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4096])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4096])],
        [
            onnx.numpy_helper.from_array(quantizer.step().numpy(), "step"),
            onnx.numpy_helper.from_array(np.array(0, np.uint8), "zero"),
            onnx.numpy_helper.from_array(np.array(2**bits - 1, np.uint8), "top"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x.numpy()})
    assert np.array_equal(expected, quantizer(x).detach().numpy())


@given(bit_widths, clips, st.lists(floats, min_size=1, max_size=20))
def test_weight_integers_are_odd_and_exact(bits, nu, values):
    quantizer = _weight(bits, nu)
    w = torch.tensor(values)
    q = quantizer.integer(w)
    assert q.dtype == torch.int16
    assert bool((q % 2 != 0).all())
    assert int(q.abs().max()) <= 2**bits - 1
    assert torch.equal(quantizer(w), q.to(torch.float32) * quantizer.step())


@given(bit_widths, clips, floats)
def test_weight_goes_to_the_nearest_odd_level(bits, nu, value):
    quantizer = _weight(bits, nu)
    levels = 2**bits - 1
    exact = (
        min(max(Fraction(value) / Fraction(float(quantizer.nu.detach())), Fraction(-1)), Fraction(1)) * levels
    )
    q = int(quantizer.integer(torch.tensor([value]))[0])
    assert abs(exact - q) <= 1 + Fraction(1, 2**12)


@given(bit_widths, st.lists(floats, min_size=1, max_size=20))
def test_reading_back_quantized_weights_changes_nothing(bits, values):
    """What a compact checkpoint relies on: q·step is quantized to q again."""
    quantizer = _weight(bits, 1.3)
    q = quantizer.integer(torch.tensor(values))
    assert torch.equal(quantizer.integer(q.to(torch.float32) * quantizer.step()), q)


def test_negative_nu_counts_by_its_size():
    x = torch.linspace(-1, 2, 50)
    assert torch.equal(_activation(4, -1.5)(x), _activation(4, 1.5)(x))
    assert torch.equal(_weight(4, -1.5)(x), _weight(4, 1.5)(x))


@pytest.mark.parametrize("nu", [0.0, float("nan"), float("inf")])
def test_a_step_that_is_no_step_is_refused(nu):
    with pytest.raises(ScaleError, match="positive finite"):
        _activation(4, nu).step()


@pytest.mark.parametrize("bits", [1, 9, 4.0])
def test_bits_outside_two_to_eight_are_refused(bits):
    with pytest.raises(ValueError, match="from 2 to 8"):
        ActivationQuantizer(bits)


def test_activation_gradients_are_those_of_lsq():
    """Straight through inside the clip range; for the step q - x/step inside, q above, 0 below."""
    quantizer = _activation(2, 3.0)
    x = torch.tensor([[-1.0, 0.6, 1.7, 5.0]], requires_grad=True)
    weights = torch.tensor([[1.0, 10.0, 100.0, 1000.0]])
    (quantizer(x) * weights).sum().backward()
    assert torch.equal(x.grad, torch.tensor([[0.0, 10.0, 100.0, 0.0]]))
    step_gradient = 10 * (1 - 0.6) + 100 * (2 - 1.7) + 1000 * 3
    nu_gradient = step_gradient / 3 * 9 / (4 * 3) ** 0.5
    # float32 sums of four terms
    assert quantizer.nu.grad.item() == pytest.approx(nu_gradient, rel=1e-5)


def test_weight_gradients_pass_inside_the_clip_range():
    quantizer = _weight(2, 1.0)
    w = torch.tensor([-2.0, -0.4, 0.7, 3.0], requires_grad=True)
    quantizer(w).sum().backward()
    assert w.grad.tolist() == pytest.approx([0, 1, 1, 0])
    assert quantizer.nu.grad is not None and float(quantizer.nu.grad.abs()) > 0


def test_gradients_of_the_clip_value_are_those_of_lsq():
    """Σ g·(q·step - w) / ν inside the clip range, Σ g·(±1) outside, times LSQ's factor."""
    quantizer = _weight(2, -1.0)
    w = torch.tensor([-2.0, -0.4, 0.7, 3.0])
    weights = torch.tensor([1.0, 10.0, 100.0, 1000.0])
    (quantizer(w) * weights).sum().backward()
    expected = 1 * -1 + 10 * (-1 / 3 + 0.4) + 100 * (1 - 0.7) + 1000 * 1
    # float32 sums of four terms; ν counts by its size, so a negative one has the opposite gradient
    assert quantizer.nu.grad.item() == pytest.approx(-expected * 9 / (4 * 3) ** 0.5, rel=1e-5)


def test_standardized_weights_have_mean_zero_and_deviation_one_before_the_grid():
    quantizer = WeightQuantizer(8, standardize=True)
    w = torch.randn(200, generator=torch.Generator().manual_seed(1)) * 0.01 + 5
    quantizer.initialize(w)
    values = quantizer(w).detach()
    assert abs(float(values.mean())) < 0.05 and abs(float(values.std()) - 1) < 0.05
    same = quantizer.integer(w) == quantizer.integer(w * 4)
    assert float(same.float().mean()) > 0.99  # a value on the edge of two levels may fall to either side


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_initial_clip_beats_the_largest_weight(bits):
    """The searched ν has no larger squared error than ν = max|w|."""
    w = torch.randn(2000, generator=torch.Generator().manual_seed(2))
    quantizer = WeightQuantizer(bits)
    quantizer.initialize(w)
    chosen = float(((quantizer(w) - w) ** 2).mean())
    largest = float(((_weight(bits, float(w.abs().max()))(w) - w) ** 2).mean())
    assert chosen <= largest


def test_observing_passes_on_and_calibrates():
    quantizer = ActivationQuantizer(4)
    quantizer.observing = True
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(3)) * 6
    assert quantizer(x) is x
    quantizer.calibrate()
    assert 4.0 < float(quantizer.nu) <= 6.0
    assert not torch.equal(quantizer(x), x)


def test_a_layer_that_saw_only_zeros_keeps_a_usable_step():
    quantizer = ActivationQuantizer(4)
    quantizer.observing = True
    quantizer(torch.zeros(1, 2, 2, 2))
    quantizer.calibrate()
    assert float(quantizer.step()) > 0
