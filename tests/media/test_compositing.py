# SPDX-License-Identifier: MIT
"""A repainted picture over its source, against every pixel's distance computed by hand."""

from __future__ import annotations

import unittest

import numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from localai_diffusers.media import compositing
from tests.composites import laid_over

SIZE = (70, 50)


def noise(seed: int, size: tuple[int, int] = SIZE) -> Image.Image:
    pixels = numpy.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=numpy.uint8)
    return Image.fromarray(pixels)


def mask_of(*boxes: tuple[int, int, int, int], size: tuple[int, int] = SIZE, level: int = 255) -> Image.Image:
    mask = Image.new("L", size, 0)
    for box in boxes:
        ImageDraw.Draw(mask).rectangle(box, fill=level)
    return mask


class CompositeTest(unittest.TestCase):
    def test_the_fade_lies_outside_and_ends_at_twice_the_blur(self) -> None:
        made, source, mask = noise(1), noise(2), mask_of((20, 10, 40, 30), (55, 45, 55, 45))
        for blur in (0, 0.4, 1, 2.5, 8):
            composed = numpy.asarray(compositing.laid_over(made, source, mask, blur), float)
            right = laid_over(made, source, mask, 2 * blur)
            self.assertLessEqual(numpy.abs(composed - right).max(), 0.51, blur)

    def test_white_is_the_painting_and_what_is_far_the_source_to_the_last_bit(self) -> None:
        made, source, mask = noise(1), noise(2), mask_of((20, 10, 40, 30))
        composed = numpy.asarray(compositing.laid_over(made, source, mask, 3))
        white = numpy.asarray(mask) == 255
        self.assertTrue((composed[white] == numpy.asarray(made)[white]).all())
        self.assertTrue((composed[:, 47:] == numpy.asarray(source)[:, 47:]).all())
        self.assertTrue((composed[36:] == numpy.asarray(source)[36:]).all())

    def test_by_default_it_is_4_pixels_at_512_and_in_proportion(self) -> None:
        for size, reach in (((512, 512), 8), ((1024, 512), 8), ((1024, 2048), 16), ((64, 64), 1)):
            mask = mask_of((0, 0, 9, 9), size=size)
            composed = compositing.laid_over(Image.new("RGB", size, "white"), Image.new("RGB", size), mask)
            column = numpy.asarray(composed)[5, :, 0]
            self.assertEqual(int((column > 0).sum()), 10 + reach - 1, size)

    def test_a_mask_without_white_leaves_the_source(self) -> None:
        mask = mask_of((3, 3, 9, 9), level=127)
        self.assertFalse(compositing.is_white_anywhere(mask))
        self.assertEqual(compositing.laid_over(noise(1), noise(2), mask).tobytes(), noise(2).tobytes())
        self.assertTrue(compositing.is_white_anywhere(mask_of((9, 9, 9, 9))))


class CellsTest(unittest.TestCase):
    @settings(max_examples=40, deadline=None)
    @given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 16), st.integers(0, 99))
    def test_each_cell_is_its_largest_value(self, width: int, height: int, cell: int, seed: int) -> None:
        levels = numpy.random.default_rng(seed).integers(0, 256, (height, width), dtype=numpy.uint8)
        made = numpy.asarray(compositing.grown(Image.fromarray(levels), cell))
        for row in range(0, height, cell):
            for column in range(0, width, cell):
                part = numpy.s_[row : row + cell, column : column + cell]
                self.assertEqual(set(made[part].ravel()), {levels[part].max()})

    @settings(max_examples=60, deadline=None)
    @given(st.tuples(*[st.integers(1, 60)] * 4), st.integers(0, 99))
    def test_a_mask_of_another_size_keeps_every_white_pixel(self, sides: tuple[int, ...], seed: int) -> None:
        width, height, wide, high = sides
        levels = numpy.random.default_rng(seed).integers(0, 256, (height, width), dtype=numpy.uint8)
        made = numpy.asarray(compositing.fitted(Image.fromarray(levels), (wide, high)))
        self.assertEqual(made.shape, (high, wide))
        if wide <= width and high <= height:
            self.assertEqual(made.max(), levels.max())
        if width % wide == 0 and height % high == 0:
            right = levels.reshape(high, height // high, wide, width // wide).max(axis=(1, 3))
            self.assertTrue((made == right).all())
        if wide % width == 0 and high % height == 0:
            self.assertTrue((made == levels.repeat(high // height, 0).repeat(wide // width, 1)).all())

    def test_a_canvas_goes_on_with_the_last_column_and_row_and_a_mask_in_black(self) -> None:
        picture = compositing.padded(noise(1), (72, 56))
        pixels = numpy.asarray(picture)
        self.assertEqual(picture.crop((0, 0, *SIZE)).tobytes(), noise(1).tobytes())
        self.assertTrue((pixels[:50, 71] == pixels[:50, 69]).all() and (pixels[55] == pixels[49]).all())
        mask = numpy.asarray(compositing.padded(mask_of((0, 0, 69, 49)), (72, 56)))
        self.assertEqual((mask[:50, :70].min(), mask[:, 70:].max(), mask[50:].max()), (255, 0, 0))


class ColorsTest(unittest.TestCase):
    def test_what_is_transparent_takes_the_nearest_color_that_is_seen(self) -> None:
        picture = Image.new("RGBA", (6, 1), (9, 9, 9, 0))
        picture.putpixel((1, 0), (10, 20, 30, 255))
        picture.putpixel((4, 0), (40, 50, 60, 1))
        colors = [compositing.colors_of(picture).getpixel((x, 0)) for x in range(6)]
        self.assertEqual(colors, [(10, 20, 30)] * 3 + [(40, 50, 60)] * 3)


if __name__ == "__main__":
    unittest.main()
