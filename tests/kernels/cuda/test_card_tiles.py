"""The estimate by which convolutions get their tiles."""

import tomllib

import pytest
from needing import ROOT

from aqd_deploy.errors import ShapeError, TargetError
from aqd_deploy.kernels.contract.choice import Choice
from aqd_deploy.kernels.contract.spec import ConvSpec, Epilogue, StoreStream
from aqd_deploy.kernels.cuda.backend import CudaBackend
from aqd_deploy.kernels.cuda.cards import CARDS, card_named
from aqd_deploy.kernels.cuda.conv import Factors, half_factors_of, walks_of
from aqd_deploy.kernels.cuda.layout import WeightForm
from aqd_deploy.kernels.cuda.tiles import TILES, Walk, Work, choices

ALL_WALKS = dict.fromkeys((64, 128), (Walk.HALO, Walk.CHUNK))


def work(
    pixels: int, columns: int = 256, depth: int = 2304, adds: bool = False, halves: bool = False
) -> Work:
    return Work((pixels,), columns, depth, ALL_WALKS, pixels * (256 + columns), adds, halves)


@pytest.mark.parametrize("card", CARDS)
@pytest.mark.parametrize("adds", [False, True])
def test_every_choice_fits_its_card(card, adds):
    found = choices(work(4200, adds=adds), card_named(card))
    assert found == sorted(found, key=lambda each: each.microseconds)
    for each in found:
        assert each.tile.shared() <= card_named(card).shared
        assert each.tile.threads <= 1024 and each.tile.halo == (each.walk is Walk.HALO)
        assert not each.tile.warpgroups or card_named(card).warpgroups


@pytest.mark.parametrize("card", CARDS)
def test_every_choice_is_another_one_and_makes_its_kernel(card):
    backend = CudaBackend(card)
    spec = ConvSpec(20, 20, 64, 64, (3, 3), pads=(1, 1, 1, 1))
    call = (spec, Epilogue((), (StoreStream(),)), [], 1)
    found = backend.choices(*call)
    assert len(set(found)) == len(found) > 3
    assert [backend.convolution(*call, choice=each).choice for each in found] == found
    assert backend.convolution(*call).choice == found[0]
    with pytest.raises(ShapeError, match="no such kernel on this card"):
        backend.convolution(*call, choice=Choice.of("direct"))


def test_much_work_goes_to_warpgroups_and_little_is_split():
    card = card_named("sm_90a")
    assert choices(work(268_800), card)[0].tile.warpgroups
    assert choices(work(100, 512, 4608), card)[0].splits > 1


@pytest.mark.parametrize("card", CARDS)
def test_products_of_4_bits_are_the_choice_of_cards_that_have_them(card):
    few, many = (choices(work(16_800, halves=halves), card_named(card)) for halves in (False, True))
    assert not any(each.tile.packed for each in few)
    assert many[0].tile.packed == card_named(card).halves == any(each.tile.packed for each in many)
    assert many[0].microseconds <= few[0].microseconds


AQD = {"input_range": (0, 15), "weight_range": (-15, 15), "weight_step": 2}


@pytest.mark.parametrize(
    ("more", "factors"),
    [
        (AQD, Factors(WeightForm.HALVED, odd=True)),
        ({**AQD, "weight_range": (-7, 7)}, Factors(WeightForm.AS_STORED, odd=False)),
        ({**AQD, "weight_range": (-7, 7), "weight_step": 1}, Factors(WeightForm.AS_STORED, odd=False)),
        ({**AQD, "weight_step": 1}, None),
        ({**AQD, "input_range": (0, 16)}, None),
        ({**AQD, "input_range": None}, None),
        ({**AQD, "weight_range": (-31, 31)}, None),
        ({**AQD, "input_range": (-8, 7), "input_signed": True}, None),
        (
            {"input_range": (-8, 7), "weight_range": (-7, 7), "input_signed": True},
            Factors(WeightForm.AS_STORED, odd=False),
        ),
        ({"odd": True, "input_range": (0, 15), "weight_range": (-7, 7)}, None),
    ],
)
def test_which_operands_have_4_bits(more, factors):
    assert half_factors_of(ConvSpec(8, 8, 64, 8, (1, 1), **more)) == factors


def test_warpgroups_are_the_choice_of_cards_that_have_them():
    assert any(tile.warpgroups for tile in TILES)
    assert not any(each.tile.warpgroups for each in choices(work(268_800), card_named("sm_90")))


@pytest.mark.parametrize(
    ("spec", "walks"),
    [
        (ConvSpec(8, 8, 64, 8, (3, 3), pads=(1, 1, 1, 1)), (Walk.HALO, Walk.CHUNK)),
        (ConvSpec(8, 8, 64, 8, (3, 3), (2, 2), (1, 1, 1, 1)), (Walk.CHUNK,)),
        (ConvSpec(8, 8, 64, 8, (7, 7)), (Walk.MIXED,)),
        (ConvSpec(8, 8, 48, 8, (1, 1)), (Walk.MIXED,)),
    ],
)
def test_how_steps_find_their_input(spec, walks):
    assert walks_of(spec, 64) == walks


def test_a_card_without_kernels():
    with pytest.raises(TargetError, match=r"no kernels for this card; got 'sm_52'; valid: sm_80"):
        card_named("sm_52")


def test_every_source_of_a_kernel_ships():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    package = ROOT / "aqd_deploy" / "kernels" / "cuda"
    globs = config["package-data"]["aqd_deploy.kernels.cuda"]
    shipped = {path for glob in globs for path in package.glob(glob)}
    assert shipped == {path for path in (package / "native").rglob("*") if path.is_file()}
    assert {path.name for path in shipped} < set(CudaBackend("sm_80").sources())
