"""What an observer reads from what clients send: attacks, to measure how well a defence works."""

from __future__ import annotations

from torch import Tensor


def seen_by_units(weight: Tensor, bias: Tensor) -> Tensor:
    """The input that each unit of a linear layer has seen, from the layer's update.

    The gradient of unit j is (sum_i g_ij x_i, sum_i g_ij), with a number g_ij for every example i
    and one for all features. Its first part, divided by the second, is the example itself where
    there was only one, however many steps it was trained for; with several it is their mean with
    the weights g_ij, some of them perhaps negative.
    Phong, Aono, Hayashi, Wang and Moriai, IEEE Transactions on Information Forensics and Security
    13(5), 2018, section III; Geiping, Bauermeister, Droege and Moeller, NeurIPS 2020, Proposition
    3.1. arXiv:2003.14053

    weight: (..., units, features), bias: (..., units): gradients of the layer, or how far SGD has
    moved it. Returns (..., units, features), NaN where a unit has not moved.
    Raises ValueError where the two shapes do not belong together.
    """
    if weight.shape[:-1] != bias.shape:
        raise ValueError(
            "expected a weight (..., units, features) and a bias (..., units), got "
            f"{tuple(weight.shape)} and {tuple(bias.shape)}"
        )
    moved = bias.abs() > 0
    return weight / bias.where(moved, bias.new_tensor(float("nan")))[..., None]
