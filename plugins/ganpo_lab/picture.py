"""Requests whose keys are not written but drawn: small pictures, made by a program.

A picture has 2 x 2 cells of 8 x 8 pixels. Each key asked for is a mark in a cell of its own, in reading order; its shape and
colour tell which key it is. Places within cells, empty cells and noise differ from picture to picture.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ganpo_lab.world import BOS, IMAGE, SEP, VALUES, Request

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image
    from torch import Tensor

CELL, ACROSS = 8, 2
NUM_CELLS = ACROSS * ACROSS
SIDE = CELL * ACROSS
MARK = 6
COLOURS = ((220, 70, 60), (60, 110, 220))
BACKGROUND, NOISE = 128, 12.0
"""Grey, and the deviation of what is added to every value."""


@dataclass(frozen=True)
class SeenRequest(Request):
    """A request whose keys stand in a picture; the prompt's text holds the seed alone."""

    number: int = 0
    """Of the picture: with the keys, all that it depends on."""

    @property
    def prompt(self) -> str:
        """As the model reads it: a token for each cell of the picture."""
        return " ".join([BOS, *[IMAGE] * NUM_CELLS, VALUES[self.seed], SEP])

    @property
    def written(self) -> str:
        """As a row of data has it: one placeholder, from which the processor makes the tokens."""
        return " ".join([BOS, IMAGE, VALUES[self.seed], SEP])


def see(requests: Sequence[Request], first: int) -> list[SeenRequest]:
    """The same requests with pictures in place of words, numbered from `first`."""
    return [SeenRequest(request.keys, request.seed, first + index) for index, request in enumerate(requests)]


def draw_picture(request: SeenRequest) -> NDArray[np.uint8]:
    """[16, 16, 3], a pure function of the keys and of the picture's number."""
    draw = random.Random(f"picture-{request.number}-{request.keys}")
    grain = np.random.default_rng([request.number, *request.keys])
    pixels = BACKGROUND + NOISE * grain.standard_normal((SIDE, SIDE, 3))
    cells = sorted(draw.sample(range(NUM_CELLS), len(request.keys)))
    for key, cell in zip(request.keys, cells, strict=True):
        top = CELL * (cell // ACROSS) + draw.randint(0, CELL - MARK)
        left = CELL * (cell % ACROSS) + draw.randint(0, CELL - MARK)
        inside = pixels[top : top + MARK, left : left + MARK]
        inside[_shape(key % 4)] = COLOURS[key // 4] + NOISE * grain.standard_normal(3)
    return pixels.clip(0, 255).astype(np.uint8)


def as_image(request: SeenRequest) -> Image:
    """The picture as a file holds it."""
    from PIL import Image

    return Image.fromarray(draw_picture(request))


def as_pixels(requests: Sequence[SeenRequest]) -> Tensor:
    """[N, 3, 16, 16] from -1 to 1: what the model's processor makes of the pictures."""
    import torch

    pictures = torch.from_numpy(np.stack([draw_picture(request) for request in requests]))
    return (pictures.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5


def _shape(index: int) -> NDArray[np.bool_]:
    """[6, 6]: lying bars, standing bars, a cross, a ring."""
    row, column = np.indices((MARK, MARK))
    middle = (MARK - 1) / 2
    return (
        row % 3 != 2,
        column % 3 != 2,
        (abs(row - middle) < 1) | (abs(column - middle) < 1),
        (abs(row - middle) > 2) | (abs(column - middle) > 2),
    )[index]
