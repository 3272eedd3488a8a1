"""What a degradation is as a response, in which the search reckons: 0 at the tolerance, about linear in the depth."""

from __future__ import annotations

from typing import Any

import numpy as np

C = 0.05
"""Keeps the logarithm finite where nothing is lost, and the response linear where little is."""
MAX_DEGRADATION = 10.0
"""Beyond it a block is hopeless, and how hopeless tells nothing."""


def response(degradation: Any, tolerance: Any) -> Any:
    """Return the response g of a degradation: 0 at the tolerance, above 0 where the block does harm.

    Args:
        degradation: Number or array, from -C / 2 to MAX_DEGRADATION.
        tolerance: Likewise.
    """
    return np.log((degradation + C) / (tolerance + C))


def degradation_of(g: Any, tolerance: Any) -> Any:
    """Return the degradation of a response, at most MAX_DEGRADATION."""
    return np.minimum(np.exp(g) * (tolerance + C) - C, MAX_DEGRADATION)


def secant(degradation: Any, tolerance: Any) -> Any:
    """Return how many units of response go to one of u, on the line through both at the tolerance and a degradation.

    The secant, not the tangent: a look stays as many standard errors from the tolerance in its response as in u, which
    is what a verdict asks.
    """
    degradation = np.maximum(degradation, -C / 2)
    at = np.abs(degradation - tolerance) < 1e-6
    run = np.log((1 + degradation) / (1 + tolerance))
    return np.where(at, (1 + tolerance) / (tolerance + C), response(degradation, tolerance) / np.where(at, 1.0, run))


def held(degradation: float | None) -> float:
    """Return a degradation inside what responses can tell apart; None is unbounded."""
    return MAX_DEGRADATION if degradation is None else min(max(degradation, -C / 2), MAX_DEGRADATION)
