"""Recipes: there and back as TOML and JSON, and what they refuse."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aqd_deploy.errors import RecipeError
from aqd_deploy.quantization.recipe import (
    Override,
    Recipe,
    Steps,
    from_document,
    read_recipe,
    recipe_text,
)

BITS = st.integers(2, 8)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=8)
RECIPES = st.builds(
    Recipe,
    method=TEXTS,
    weight_bits=BITS,
    last_bits=BITS,
    per_channel=st.booleans(),
    parameters=st.dictionaries(st.sampled_from(["power", "percent"]), st.floats(-1e9, 1e9), max_size=2),
    overrides=st.lists(st.builds(Override, TEXTS, st.none() | BITS, st.none() | BITS), max_size=2).map(tuple),
    excluded=st.lists(TEXTS, max_size=2).map(tuple),
    steps=st.builds(Steps, st.booleans(), st.booleans(), st.integers(0, 1000), st.booleans()),
)


@given(RECIPES, st.sampled_from([".toml", ".json"]))
def test_there_and_back(tmp_path_factory, recipe, suffix):
    path = tmp_path_factory.mktemp("recipes") / f"r{suffix}"
    path.write_text(recipe_text(recipe, suffix), encoding="utf-8")
    assert read_recipe(path) == recipe


def test_what_is_not_said_has_its_default():
    assert from_document({"version": 1, "weight_bits": 4}) == Recipe(weight_bits=4)


@pytest.mark.parametrize(
    ("document", "told"),
    [
        ({"version": 2}, "of another version; got 2; valid: 1"),
        ({}, "has no version"),
        ({"version": 1, "bits": 4}, "a key that isn't known; got bits"),
        ({"version": 1, "steps": {"equalize": True}}, "at steps has a key that isn't known; got equalize"),
        ({"version": 1, "overrides": [{"pattern": "x", "bits": 4}]}, "at overrides has a key"),
        ({"version": 1, "weight_bits": 9}, "no valid weight_bits; got 9; valid: a whole number from 2 to 8"),
        ({"version": 1, "symmetric": 1}, "no valid symmetric; got 1; valid: true or false"),
        ([], "no valid content"),
    ],
)
def test_refused_documents(document, told):
    with pytest.raises(RecipeError, match=told):
        from_document(document)


@pytest.mark.parametrize("name", ["r.toml", "r.json"])
def test_files_that_are_none(tmp_path, name):
    (tmp_path / name).write_text("{ = ")
    with pytest.raises(RecipeError, match=r"not a TOML file|not JSON"):
        read_recipe(tmp_path / name)


def test_values_from_python_are_checked_as_well():
    with pytest.raises(RecipeError, match="activation_bits; got 1"):
        Recipe(activation_bits=1)


def test_the_last_override_that_fits_decides():
    recipe = Recipe(
        weight_bits=4, activation_bits=4, last_bits=6,
        overrides=(Override("head.*", 5, 5), Override("head.box", activation_bits=3)),
    )  # fmt: skip
    assert recipe.bits_of("head.box", first=False, last=True) == (5, 3)
    assert recipe.bits_of("stem", first=True, last=False) == (8, 8)
    assert recipe.bits_of("end", first=False, last=True) == (6, 6)
    assert recipe.bits_of("middle", first=False, last=False) == (4, 4)


def test_bits_by_name_take_names_as_they_are():
    recipe = Recipe().with_bits({"a[0]*": 3})
    assert recipe.bits_of("a[0]*", first=False, last=False) == (3, 3)
    assert recipe.bits_of("a0x", first=False, last=False) == (8, 8)


def test_a_pattern_that_fits_nothing():
    recipe = Recipe(excluded=("hed.*",))
    with pytest.raises(RecipeError, match=r"no layer's name fits; got 'hed.\*'; valid: stem, head.0"):
        recipe.check_patterns(["stem", "head.0"])
