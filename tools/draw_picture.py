"""Draws equiv/picture.png, the project's own picture: mountains in the evening, mirrored in a lake.

A stand-in for a photograph, free of anyone's rights. Like one it has smooth shading, sharp edges and texture at every
scale, so that attention has something to attend to. The same seed gives the same picture.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

SIZE = 224
FINE = 2 * SIZE  # drawn at twice the size and averaged, which smooths the edges
SHORE = 0.62  # height of the waterline, as a share of the picture


def colour(*rgb: int) -> Array:
    """An sRGB colour as an array (3,) in [0, 1]."""
    return np.array(rgb) / 255


def blend(below: Array, above: Array, share: Array) -> Array:
    """``below`` (H, W, 3), or (3,), covered by ``above`` to the share (H, W) given."""
    return below + (above - below) * np.clip(share, 0, 1)[..., None]


def noise(rng: np.random.Generator, height: int, width: int, power: float, stretch: float = 1.0) -> Array:
    """Noise (height, width) of mean 0 and deviation 1, whose amplitude falls with the frequency f as f**-power."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height / stretch, np.fft.rfftfreq(width) * width)
    frequency[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((height, width))) * frequency**-power, (height, width))
    return (field - field.mean()) / field.std()


def draw(seed: int = 13) -> NDArray[np.uint8]:
    """The picture, (224, 224, 3)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:FINE, 0:FINE] / FINE  # downwards and to the right, in [0, 1)

    # Sky: a gradient, the sun's glow, and clouds lit from its side.
    sun_x, sun_y = 0.70, 0.36
    distance = np.hypot(x - sun_x, (y - sun_y) * 1.15)
    scene = blend(blend(colour(58, 98, 160), colour(150, 175, 205), y / 0.35), colour(250, 205, 150), (y - 0.2) / 0.4)
    scene = blend(scene, colour(255, 222, 160), 0.75 * np.exp(-distance / 0.16))
    scene = blend(scene, colour(255, 250, 225), 1.4 * np.exp(-((distance / 0.045) ** 4)))
    clouds = noise(rng, FINE, FINE, 1.55, stretch=3.2)
    density = np.clip((clouds - 0.15) / 1.3, 0, 1) * np.clip(1.25 - y / 0.42, 0, 1)
    lit = np.clip(0.55 + 6 * (clouds - np.roll(clouds, (-5, -3), (0, 1))) + 0.6 * np.exp(-distance / 0.3), 0, 1)
    scene = blend(scene, blend(colour(120, 118, 140), colour(255, 236, 214), lit), 0.9 * density)

    # Ridges from far to near: less haze, more relief; the slopes' light is that of a fractal height field.
    ridges = [  # height of the ridge, its roughness, colour of rock or wood, share of haze
        (0.43, 0.060, colour(112, 104, 122), 0.62),
        (0.50, 0.045, colour(74, 84, 90), 0.36),
        (0.565, 0.028, colour(40, 62, 46), 0.10),
    ]
    for level, roughness, tint, haze in ridges:
        top = level + roughness * noise(rng, 1, FINE, 1.3)[0]
        relief = noise(rng, FINE, FINE, 1.35, stretch=0.6)
        slope = np.roll(relief, (2, -3), (0, 1)) - relief
        light = np.clip(0.5 + 0.4 * slope / slope.std() + 0.1 * noise(rng, FINE, FINE, 0.5), 0, 1.2)
        ground = tint * (0.45 + 0.9 * light[..., None]) + colour(70, 40, 10) * (light**2)[..., None] * (1 - haze)
        snow = np.clip((top + 0.05 + 0.02 * relief - y) / 0.02, 0, 1) * (haze > 0.5)
        ground = blend(ground, colour(226, 222, 232) * (0.6 + 0.45 * light[..., None]), 0.85 * snow)
        ground = blend(ground, colour(214, 186, 170), haze * (0.75 + 0.5 * np.clip((y - top) / 0.12, 0, 1)))
        scene = blend(scene, ground, (y - top) * FINE)

    # Lake: the scene upside down, shaken sideways and along by ripples that grow towards us, and darker.
    depth = np.clip((y - SHORE) / (1 - SHORE), 0, 1)
    ripples = noise(rng, FINE, FINE, 1.0, stretch=7.0)
    rows = (2 * SHORE - y + (0.004 + 0.03 * depth) * ripples) * FINE
    columns = x * FINE + 5 * depth * np.roll(ripples, 40, 1)
    mirror = scene[np.clip(rows, 0, SHORE * FINE - 1).astype(int), np.clip(columns, 0, FINE - 1).astype(int)]
    water = blend(mirror * 0.86, colour(22, 44, 62), 0.12 + 0.5 * depth)
    glitter = (
        np.clip(ripples - 1, 0, 1) * np.exp(-(((x - sun_x) / (0.05 + 0.1 * depth)) ** 2)) * np.clip(3 * depth - 1, 0, 1)
    )
    water = blend(water, colour(255, 230, 180), 1.3 * glitter)
    scene = blend(scene, water, (y - SHORE) * FINE)

    # Bank: grass in front, each blade a dark stroke with a lit edge.
    bank = 0.93 + 0.03 * noise(rng, 1, FINE, 1.2)[0] - 0.10 * np.clip(0.35 - x[0], 0, 1)
    blades = noise(rng, FINE, FINE, 0.55, stretch=0.12)
    shade = np.clip(0.4 + 0.28 * blades + 0.8 * (y - bank), 0, 1)
    grass = blend(colour(14, 20, 12), colour(112, 116, 46), shade)
    scene = blend(scene, grass, (y - bank + 0.018 * blades) * FINE / 3)

    # Camera: averaging, darker corners, a slight grain.
    image = np.clip(scene, 0, 1).reshape(SIZE, 2, SIZE, 2, 3).mean((1, 3))
    radius = np.hypot(*(np.mgrid[0:SIZE, 0:SIZE] / SIZE - 0.5))
    image = image * (1.03 - 0.42 * radius**2)[..., None] + 0.008 * rng.standard_normal((SIZE, SIZE, 1))
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)


def main() -> None:
    from PIL import Image

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", nargs="?", type=Path, default=Path(__file__).parents[1] / "equiv" / "picture.png")
    parser.add_argument("--seed", type=int, default=13)
    arguments = parser.parse_args()
    Image.fromarray(draw(arguments.seed)).save(arguments.path, optimize=True)


if __name__ == "__main__":
    main()
