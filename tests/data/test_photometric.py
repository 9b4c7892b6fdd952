import colorsys

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mtmamba.data.photometric import Distortion, distort, draw_distortion


def plain_distort(image, d):
    """The steps one by one in floating point, in the order of SSD's distortion."""

    def byte(values):
        return np.clip(values, 0, 255).astype(np.uint8)

    def contrast(values):
        return byte(values.astype(np.float32) * d.contrast)

    image = byte(image.astype(np.float32) + d.brightness)
    if not d.contrast_last:
        image = contrast(image)
    if d.saturation is not None:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 1] = byte(hsv[..., 1].astype(np.float32) * d.saturation)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    if d.hue is not None:
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(int) + d.hue) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    return contrast(image) if d.contrast_last else image


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_distort_equals_the_steps_in_floating_point(seed):
    rng = np.random.default_rng(seed)
    image, distortion = rng.integers(0, 256, (17, 23, 3), np.uint8), draw_distortion(rng)
    np.testing.assert_array_equal(distort(image, distortion), plain_distort(image, distortion))


def test_distort_by_hand():
    red = np.array([[[255, 0, 0]]], np.uint8)
    turned = [255 * x for x in colorsys.hsv_to_rgb(17 / 180, 1, 1)]
    np.testing.assert_allclose(distort(red, Distortion(hue=17))[0, 0], turned, atol=1)
    np.testing.assert_allclose(distort(red, Distortion(saturation=0.5))[0, 0], [255, 128, 128], atol=1)
    dark = np.array([[[100, 20, 250]]], np.uint8)
    distorted = distort(dark, Distortion(brightness=-30.5, contrast=2.0))  # 69, 0, 219 doubled
    assert distorted[0, 0].tolist() == [138, 0, 255]


def test_the_distortions_follow_their_distributions():
    rng = np.random.default_rng(3)
    draws = [draw_distortion(rng) for _ in range(6000)]
    brightness = [d.brightness for d in draws if d.brightness != 0]
    contrast = [d.contrast for d in draws if d.contrast != 1]
    saturation = [d.saturation for d in draws if d.saturation is not None]
    hue = [d.hue for d in draws if d.hue is not None]
    for drawn in (brightness, contrast, saturation, hue, [d for d in draws if d.contrast_last]):
        assert stats.binomtest(len(drawn), len(draws), 0.5).pvalue > 0.01
    assert stats.kstest(brightness, stats.uniform(-32, 64).cdf).pvalue > 0.01
    assert stats.kstest(contrast, stats.uniform(0.5, 1).cdf).pvalue > 0.01
    assert stats.kstest(saturation, stats.uniform(0.5, 1).cdf).pvalue > 0.01
    values, counts = np.unique(hue, return_counts=True)
    assert values.tolist() == list(range(-18, 18))
    assert stats.chisquare(counts).pvalue > 0.01
