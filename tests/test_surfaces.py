"""The surfaces: each gradient is the derivative, each minimum is one, and symbols pass through."""

import random

import numpy as np
import pytest
import sympy

from sgdm.errors import InvalidValueError
from sgdm.surfaces import get_surface, list_surfaces

SURFACES = [pytest.param(surface, id=surface.name) for surface in list_surfaces()]


def defaults(surface):
    return {parameter.name: parameter.default for parameter in surface.parameters}


@pytest.mark.parametrize("surface", SURFACES)
def test_the_gradient_is_that_of_finite_differences(surface, seed):
    draw = random.Random(seed)
    left, right, bottom, top = surface.bounds
    shape, h = defaults(surface), 1e-6
    for _ in range(20):
        x, y = draw.uniform(left, right), draw.uniform(bottom, top)
        measured = (
            (surface.value(x + h, y, **shape) - surface.value(x - h, y, **shape)) / (2 * h),
            (surface.value(x, y + h, **shape) - surface.value(x, y - h, **shape)) / (2 * h),
        )
        scale = 1 + abs(surface.value(x, y, **shape))
        assert surface.gradient(x, y, **shape) == pytest.approx(
            measured, rel=1e-6, abs=1e-8 * scale
        )


@pytest.mark.parametrize("surface", SURFACES)
def test_the_gradient_is_the_derivative_in_symbols(surface):
    x, y = sympy.symbols("x y")
    shape = {parameter.name: sympy.Symbol(parameter.name) for parameter in surface.parameters}
    value, gradient = surface.value(x, y, **shape), surface.gradient(x, y, **shape)
    for variable, part in zip((x, y), gradient, strict=True):
        assert sympy.expand(sympy.diff(value, variable) - part) == 0


@pytest.mark.parametrize("surface", SURFACES)
def test_the_minimum_is_the_lowest_point_in_the_bounds(surface):
    left, right, bottom, top = surface.bounds
    x, y = np.meshgrid(np.linspace(left, right, 200), np.linspace(bottom, top, 200))
    heights = surface.value(x, y, **defaults(surface))
    assert heights.shape == (200, 200)
    assert heights.min() >= surface.value(*surface.minimum, **defaults(surface))
    assert surface.gradient(*surface.minimum, **defaults(surface)) == pytest.approx((0, 0))
    for at in (surface.start, surface.minimum):
        assert left < at[0] < right
        assert bottom < at[1] < top


def test_the_quadratic_has_the_condition_number_that_it_is_given():
    x, y = sympy.symbols("x y")
    value = get_surface("quadratic").value(x, y, condition_number=sympy.Integer(40))
    curvatures = sympy.hessian(value, (x, y)).eigenvals()
    assert sorted(curvatures) == [sympy.Rational(1, 40), 1]


def test_the_two_valleys_have_a_pass_between_them():
    surface = get_surface("local-minimum")
    heights = [surface.value(x, 0) for x in (-1, 0, 2)]
    assert [surface.gradient(x, 0)[0] for x in (-1, 0, 2)] == [0, 0, 0]
    assert heights[2] < heights[0] < heights[1]


def test_an_unknown_surface_is_named():
    with pytest.raises(InvalidValueError, match=r"surface must be one of quadratic, .* got 'hill'"):
        get_surface("hill")
