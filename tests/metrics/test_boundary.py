import math
import os
import subprocess
import sys
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import scipy.io
import scipy.ndimage
import scipy.stats
from matplotlib.figure import Figure
from PIL import Image
from test_boundary_matching import scipy_matching

from mtmamba.metrics.boundary import (
    THRESHOLDS,
    BoundaryScores,
    boundary_truth,
    evaluate,
    evaluate_boundaries,
    plot_curve,
    pool,
    protocol,
    read_bsds,
    segmentation_boundaries,
)
from mtmamba.metrics.boundary.scores import average_precision, f_measure, precision_recall
from mtmamba.metrics.boundary.suppression import suppress_non_maxima
from mtmamba.metrics.boundary.thinning import thin

BSDS = Path(os.environ.get("BSDS_MINI", Path(__file__).parents[3] / "shared/data/bsds_mini"))
SHAPE = (40, 60)


def line(row=20, start=10, stop=50):
    mask = np.zeros(SHAPE, bool)
    mask[row, start:stop] = True
    return mask


def smooth_map(seed, shape=SHAPE):
    """A map of probabilities with ridges, and its truth: where another, similar map has them."""
    noise = scipy.ndimage.gaussian_filter(np.random.default_rng(seed).random((2, *shape)), (0, 2, 2))
    first, second = noise[0], noise[0] + 0.3 * noise[1]
    probability = (first - first.min()) / (first.max() - first.min())
    return probability, thin(second > np.quantile(second, 0.75))


def score(prediction, truth, **settings):
    settings = {"max_dist": 0.05, "suppress": False, "workers": 1, "progress": False} | settings
    return evaluate_boundaries([prediction], [[truth]], **settings)


@pytest.mark.skipif(not BSDS.is_dir(), reason="BSDS_MINI=FOLDER with five images of BSDS500 is not there")
def test_the_berkeley_benchmarks_own_results_on_five_images():
    ids = sorted(path.stem for path in (BSDS / "png").iterdir())
    assert len(ids) == 5
    predictions = (cv2.imread(str(BSDS / f"png/{name}.png"), cv2.IMREAD_UNCHANGED) for name in ids)
    truths = (boundary_truth(read_bsds(BSDS / f"groundTruth/{name}.mat"), protocol("bsds")) for name in ids)
    thresholds = [k / 6 for k in range(1, 6)]
    scores = evaluate_boundaries(
        predictions, truths, max_dist=0.0075, thresholds=thresholds, suppress=False, workers=1, progress=False
    )
    found = (scores.recall, scores.precision, scores.ods, scores.ois, scores.ap, scores.threshold)
    assert found == pytest.approx((0.60236, 0.848723, 0.704628, 0.708698, 0.307627, 1 / 6), abs=1e-3)
    precision, recall = scores.curve()
    assert recall == pytest.approx([0.60236, 0.443249, 0.383339, 0.380404, 0.274124], abs=1e-3)
    assert precision == pytest.approx([0.848723, 0.926853, 0.967137, 0.986264, 0.996101], abs=1e-3)


def test_a_perfect_prediction_scores_1_everywhere():
    truth = smooth_map(0)[1]
    scores = score(truth.astype(float), truth)
    assert (scores.ods, scores.ois, scores.precision, scores.recall) == (1, 1, 1, 1)
    assert scores.threshold == THRESHOLDS[0]
    assert (scores.counts == truth.sum()).all()


@pytest.mark.parametrize(("shift", "f"), [(3, 1.0), (4, 0.0)])
def test_a_shift_counts_up_to_the_tolerance(shift, f):
    """The diagonal is 72.1 pixels long, so 0.05 of it 3.6 pixels."""
    assert score(line(20 + shift).astype(float), line()).ods == f


def test_half_a_line_has_half_the_recall_and_a_double_one_half_the_precision():
    half = score(line(stop=30).astype(float), line(), max_dist=0.01)
    assert (half.precision, half.recall) == (1, 0.5)
    double = score((line() | line(10)).astype(float), line())
    assert (double.precision, double.recall) == (0.5, 1)


def test_any_annotator_makes_a_prediction_true_and_recall_adds_up():
    predicted = line(8) | line(20)
    scores = evaluate_boundaries(
        [predicted.astype(float)], [[line(8), line(20), line(32)]], max_dist=0.01, suppress=False, workers=1
    )
    assert scores.counts[0, 0].tolist() == [80, 120, 80, 80]


@pytest.mark.parametrize("suppress", [True, False])
def test_counts_equal_a_separate_scipy_matching_of_each_threshold(suppress):
    """Each threshold by itself from the start, two annotators."""
    probability, truth = smooth_map(1)
    truths = [truth, smooth_map(2)[1]]
    thresholds = [0.001, 0.2, 0.4, 0.5, 0.6, 0.8, 0.999]
    settings = {"max_dist": 0.04, "thresholds": thresholds, "suppress": suppress}
    scores = evaluate_boundaries([probability], [truths], workers=1, **settings)
    eight_bits = np.floor(255 * probability) / 255
    treated = suppress_non_maxima(eight_bits) if suppress else eight_bits
    for threshold, counts in zip(thresholds, scores.counts[0], strict=True):
        predicted = thin(treated > threshold)
        found = [scipy_matching(predicted, truth, 0.04 * np.hypot(*SHAPE))[0] for truth in truths]
        assert counts[0] == sum(found)
        assert counts[1] == sum(truth.sum() for truth in truths)
        assert max(found) <= counts[2] <= min(sum(found), predicted.sum())
        assert counts[3] == predicted.sum()
    assert scores.counts[0, 1:-1, 0].all()


def test_a_pixel_at_the_threshold_is_not_predicted():
    prediction = np.zeros(SHAPE, np.uint8)
    prediction[20, 10:50] = 51  # 51 / 255 = 0.2
    counts = score(prediction, line(), thresholds=[0.19, 0.2], thin=False).counts[0]
    assert counts[:, 3].tolist() == [40, 0]


def test_half_precision_is_multiplied_in_single():
    values = np.linspace(0, 1, 999, dtype=np.float16).reshape(27, 37)
    expected = [int((np.floor(255 * values.astype(float)) > 255 * t).sum()) for t in THRESHOLDS]
    assert score(values, np.zeros(values.shape, bool), thin=False).counts[0, :, 3].tolist() == expected


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_floats_are_truncated_to_the_8_bits_of_a_png(dtype):
    codes = np.arange(256, dtype=np.uint8).reshape(16, 16)
    exact, above = codes / dtype(255), (codes + dtype(0.9)) / dtype(255)
    truth = np.zeros((16, 16), bool)
    expected = score(codes, truth, thin=False).counts
    assert (score(exact, truth, thin=False).counts == expected).all()
    assert (score(np.minimum(above, 1), truth, thin=False).counts == expected).all()
    assert expected[0, :, 3].tolist() == [int((codes > 255 * t).sum()) for t in THRESHOLDS]


@pytest.mark.parametrize("dtype", [bool, np.int8, np.int64, np.float64])
def test_zeros_and_ones_of_any_type_are_probabilities(dtype):
    assert score(line().astype(dtype), line()).counts[0, :, 2].tolist() == [40] * len(THRESHOLDS)


def test_an_image_of_one_pixel():
    one = np.ones((1, 1), bool)
    assert score(one * 1.0, one).ods == 1
    assert score(one * 0.0, one).ods == 0


def test_thinning_is_an_option():
    thick = line() | line(21) | line(22)
    thinned, whole = (score(thick.astype(float), line(21), thin=choice).counts[0, 0, 3] for choice in (True, False))
    assert thinned <= 40 < whole == 120


def test_two_workers_count_what_one_does_and_read_little_ahead():
    pairs = [smooth_map(seed) for seed in range(20)]
    settings = {"max_dist": 0.02, "progress": False}
    one = evaluate_boundaries([p for p, _ in pairs], [[t] for _, t in pairs], workers=1, **settings)
    read = []

    def predictions():
        for prediction, _ in pairs:
            read.append(prediction)
            yield prediction

    counted = evaluate.count_all(
        evaluate.checked_pairs(predictions(), ([t] for _, t in pairs), True),
        evaluate.checked_settings(0.02, THRESHOLDS, True, True),
        None,
        workers=2,
    )
    counts = [next(counted)]
    assert len(read) == 2 * evaluate.AHEAD
    counts += counted
    assert (np.stack(counts) == one.counts).all()


def test_a_script_without_a_guard_may_use_workers(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np\n"
        "from mtmamba.metrics.boundary import evaluate_boundaries\n"
        "print('once')\n"
        "line = np.eye(30, dtype=bool)\n"
        "print(evaluate_boundaries([line] * 2, [[line]] * 2, max_dist=0.01, suppress=False, workers=2).ods)\n"
    )
    source = Path(__file__).parents[2] / "src"
    done = subprocess.run(
        [sys.executable, script], env=os.environ | {"PYTHONPATH": str(source)}, capture_output=True, text=True
    )
    assert done.stdout.split() == ["once", "1.0"], done.stderr


def test_a_worker_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; import mtmamba.metrics.boundary.evaluate"
    source = Path(__file__).parents[2] / "src"
    subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": str(source)}, check=True)


def test_a_run_goes_on_where_it_was_broken_off(tmp_path, monkeypatch):
    pairs = [smooth_map(seed) for seed in range(3)]
    settings = {"max_dist": 0.02, "workers": 1, "progress": False}
    fresh = evaluate_boundaries([p for p, _ in pairs], [[t] for _, t in pairs], **settings)
    with pytest.raises(ValueError, match="prediction 2 "):
        evaluate_boundaries(
            [pairs[0][0], pairs[1][0], pairs[2][0] + 5], [[t] for _, t in pairs], cache=tmp_path, **settings
        )
    counted = []
    count_image = evaluate.count_image
    monkeypatch.setattr(evaluate, "count_image", lambda *a: counted.append(1) or count_image(*a))

    def resumed(**changes):
        counted.clear()
        return evaluate_boundaries([p for p, _ in pairs], [[t] for _, t in pairs], cache=tmp_path, **settings | changes)

    assert (resumed().counts == fresh.counts).all()
    assert len(counted) == 1
    assert (resumed().counts == fresh.counts).all()
    assert not counted
    for changes in ({"max_dist": 0.03}, {"thresholds": [0.5]}, {"suppress": False}, {"thin": False}):
        resumed(**changes)
        assert len(counted) == 3, changes
    pairs[1] = pairs[1][0], pairs[0][1]
    resumed()
    assert len(counted) == 1


GOOD = {"predictions": [line().astype(float)] * 2, "truths": [[line()]] * 2, "max_dist": 0.01}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"predictions": []}, r"got 0 and 2: pair them"),
        ({"predictions": [], "truths": []}, "at least one image, got none"),
        ({"truths": iter([[line()]])}, "no truth for image 1"),
        ({"predictions": iter([line() * 1.0])}, "no prediction for image 1"),
        ({"predictions": [line() * 1.0, line()[:-1] * 1.0]}, r"truths of image 1 as .*\(39, 60\)"),
        ({"truths": [[line()], [line().astype(int)]]}, "truths of image 1 as bool.*got int64"),
        ({"truths": [[line()], []]}, "one annotator for image 1"),
        ({"predictions": [line() * 1.0, line() * 255.0]}, r"prediction 1 within \[0, 1\], got 0.0 to 255.0"),
        ({"predictions": [line() * 1.0, np.full(SHAPE, np.nan)]}, r"prediction 1 within \[0, 1\], got nan"),
        ({"predictions": [line() * 1.0, line() - 0.5]}, r"prediction 1 within \[0, 1\], got -0.5"),
        ({"predictions": [line()[None] * 1.0] * 2}, r"prediction 0 as \(H, W\).*\(1, 40, 60\)"),
        ({"predictions": [line().astype(complex)] * 2}, "prediction 0 as .* got complex"),
        ({"predictions": [np.empty((0, 4))] * 2}, r"prediction 0 as .*\(0, 4\)"),
        ({"predictions": [255 * line().astype(np.uint16)] * 2}, "prediction 0 within .* as uint16"),
        ({"predictions": [np.ones((1, 9))] * 2}, "at least 2 x 2 pixels.*suppress=False"),
        ({"truths": [line(), line()]}, r"got bool of shape \(60,\): pass one \(H, W\) map each"),
        ({"max_dist": 4}, r"max_dist within \(0, 1\), got 4"),
        ({"max_dist": 1}, r"max_dist within \(0, 1\), got 1"),
        ({"max_dist": 0}, r"max_dist within \(0, 1\), got 0"),
        ({"thresholds": []}, "ascending thresholds"),
        ({"thresholds": [-0.1, 0.5]}, "ascending thresholds"),
        ({"thresholds": [0.5, 0.5]}, "ascending thresholds"),
        ({"thresholds": [0.5, 1]}, r"within \[0, 1\), got \[0.5, 1.0\]"),
        ({"workers": 0}, "at least 1 worker, got 0"),
    ],
)
def test_bad_input_is_refused_by_name(wrong, message):
    with pytest.raises(ValueError, match=message):
        evaluate_boundaries(**{"workers": 1, "progress": False} | GOOD | wrong)


def test_the_smallest_image_and_threshold_that_are_taken():
    scores = score(np.ones((2, 2)), np.ones((2, 2), bool), suppress=True, thresholds=[0.0])
    assert scores.counts.tolist() == [[[0, 4, 0, 0]]]  # the borders of so small a map fade to 0


@pytest.mark.parametrize(
    ("cpus", "images", "workers"), [({0, 1, 2}, 2, 2), ({0, 1, 2}, 9, 3), ({4}, 9, 1), (None, 9, 1), ({0}, 0, 1)]
)
@pytest.mark.parametrize("terminal", [False, True])
def test_processes_are_as_many_as_cpus_and_images(monkeypatch, cpus, images, workers, terminal):
    """Where the operating system does not say which CPUs may be used, as many as it knows of; one if it knows none."""
    asked, shown = [], []
    if cpus is None:
        monkeypatch.delattr(os, "sched_getaffinity", raising=False)
        monkeypatch.setattr(os, "cpu_count", lambda: None)
    else:
        monkeypatch.setattr(os, "sched_getaffinity", {0: cpus}.__getitem__, raising=False)  # 0 is this process
    monkeypatch.setattr(evaluate, "count_all", lambda *a: asked.append(a[-1]) or [np.ones((1, 4), int)] * images)
    monkeypatch.setattr(evaluate, "Console", lambda stderr: SimpleNamespace(is_terminal=stderr and terminal))
    monkeypatch.setattr(evaluate, "track", lambda done, *_, disable, **__: shown.append(not disable) or done)
    settings = {"max_dist": 0.01, "thresholds": [0.5]}
    for progress in ({}, {"progress": False}):
        if images:
            evaluate_boundaries([line()] * images, [[line()]] * images, **progress, **settings)
        else:
            with pytest.raises(ValueError, match="at least one image"):
                evaluate_boundaries([], [], **progress, **settings)
    assert asked == [workers] * 2
    assert shown == [terminal, False]


def test_an_endless_iterable_is_not_read_beyond_the_shorter_one():
    with pytest.raises(ValueError, match="no prediction for image 1"):
        evaluate_boundaries([line() * 1.0], repeat([line()]), max_dist=0.01, workers=1)


def test_pooling_sums_before_it_divides():
    """Two images, two thresholds, by hand."""
    counts = np.array([[[8, 10, 8, 20], [6, 10, 6, 8]], [[30, 40, 30, 32], [10, 40, 10, 10]]])
    scores = pool(counts, [0.3, 0.6])
    precision, recall = 38 / 52, 38 / 50
    assert scores.precision == pytest.approx(precision)
    assert scores.recall == pytest.approx(recall)
    assert scores.ods == pytest.approx(2 * precision * recall / (precision + recall))
    assert scores.threshold == 0.3
    # The first image is better at 0.6 (F 0.67 against 0.53), the second at 0.3.
    assert scores.ois == pytest.approx(2 * (36 / 40) * (36 / 50) / (36 / 40 + 36 / 50))
    # The curve goes from recall 0.32 (precision 16/18) to 0.76 (38/52), at both ends included.
    heights = [16 / 18 + (r / 100 - 0.32) / (0.76 - 0.32) * (38 / 52 - 16 / 18) for r in range(32, 77)]
    assert scores.ap == pytest.approx(sum(heights) / 100)


def test_f_is_the_harmonic_mean():
    precision, recall = np.array([0.25, 0.75, 0.0, 1.0, 0.0]), np.array([0.5, 0.6, 0.0, 1.0, 0.5])
    assert f_measure(precision, recall) == pytest.approx([1 / 3, 2 / 3, 0, 1, 0])
    means = [scipy.stats.hmean([p, r]) for p, r in zip(precision, recall, strict=True)]
    assert f_measure(precision, recall) == pytest.approx(means)


def test_one_pixel_that_is_found_scores_1_and_none_is_0():
    scores = pool(np.array([[[1, 1, 1, 1], [0, 1, 0, 0]]]), [0.3, 0.6])
    assert (scores.ods, scores.ois, scores.precision, scores.recall, scores.threshold) == (1, 1, 1, 1, 0.3)
    assert scores.curve()[0].tolist() == precision_recall(scores.counts)[0][0].tolist() == [1, 0]
    assert precision_recall(np.zeros((1, 4), np.int64), 1.0)[0].tolist() == [1]


def test_average_precision_of_a_perfect_curve():
    assert average_precision(np.ones(3), np.array([1.0, 0.5, 0.0])) == pytest.approx(1.01)


def test_nothing_predicted_scores_0():
    scores = score(np.zeros(SHAPE), line())
    assert (scores.ods, scores.ois, scores.ap, scores.precision, scores.recall) == (0, 0, 0, 0, 0)
    assert scores.counts[0, 0].tolist() == [0, 40, 0, 0]


def test_boundaries_of_a_segmentation_equal_a_loop_over_pixels():
    labels = np.random.default_rng(0).integers(0, 3, (9, 11))
    expected = np.zeros(labels.shape, bool)
    for y, x in np.ndindex(labels.shape):
        others = [(y + dy, x + dx) for dy, dx in ((0, 1), (1, 0), (1, 1)) if y + dy < 9 and x + dx < 11]
        expected[y, x] = any(labels[y, x] != labels[other] for other in others)
    assert (segmentation_boundaries(labels) == expected).all()


def test_truth_of_nyud_follows_the_lines_and_is_thin():
    edge = 255 * (line() | np.roll(line(), 7, 0)).astype(np.uint8)
    (truth,) = boundary_truth(edge, protocol("nyud"))
    assert truth.dtype == bool
    assert scipy.ndimage.distance_transform_edt(edge == 0)[truth].max() <= np.sqrt(2)
    assert 2 * 38 <= truth.sum() <= 2 * 44
    assert (thin(truth) == truth).all()


def test_truth_of_bsds_is_each_annotators_map(tmp_path):
    masks = [line(5), line(9)]
    cells = np.empty((1, 2), object)
    for index, mask in enumerate(masks):
        cells[0, index] = {"Segmentation": mask.astype(np.uint16), "Boundaries": mask.astype(np.uint8)}
    scipy.io.savemat(tmp_path / "1.mat", {"groundTruth": cells})
    truths = boundary_truth(read_bsds(tmp_path / "1.mat"), protocol("bsds"))
    assert len(truths) == 2
    assert all((truth == mask).all() and truth.dtype == bool for truth, mask in zip(truths, masks, strict=True))


@pytest.mark.parametrize("content", [{"LabelMap": np.ones((3, 3))}, {"groundTruth": np.ones((1, 2))}])
def test_another_mat_file_is_refused(tmp_path, content):
    scipy.io.savemat(tmp_path / "1.mat", content)
    with pytest.raises(ValueError, match=r"Expected groundTruth with Boundaries in .*1\.mat"):
        read_bsds(tmp_path / "1.mat")


@pytest.mark.parametrize(
    ("name", "shape", "remedy"),
    [("nyud", (2, 5, 5), "a map of classes"), ("pascal", (5,), "a map"), ("bsds", (5, 5), "one map per annotator")],
)
def test_labels_of_another_protocol_are_refused(name, shape, remedy):
    with pytest.raises(ValueError, match=rf"for protocol {name}, got float64 of shape .*: pass {remedy}"):
        boundary_truth(np.zeros(shape), protocol(name))


def test_protocols_are_named_with_their_numbers():
    nyud, pascal, bsds = (protocol(name) for name in ("nyud", "pascal", "bsds"))
    assert (nyud.max_dist, pascal.max_dist, bsds.max_dist) == (0.011, 0.0075, 0.0075)
    assert (len(nyud.thresholds), nyud.thresholds[:3], nyud.thresholds[-1]) == (101, (0.001, 0.01, 0.02), 0.999)
    assert nyud.describe(654) == (
        "nyud: maxDist 0.011, 101 thresholds, prediction suppressed and thinned, truth from segmentation, 654 images"
    )
    assert "5105 images, not the 2498 of published numbers (the list test_new)" in pascal.describe(5105)
    assert bsds.thresholds == tuple(k / 100 for k in range(1, 100))
    shared = {"suppress": True, "thin": True, "empty_precision": 1.0}
    for found, max_dist, other in ((nyud, 0.011, {}), (pascal, 0.0075, {}), (bsds, 0.0075, {"suppress": False})):
        rest = {"empty_precision": 0.0} if found is bsds else {}
        assert found.settings == {"max_dist": max_dist, "thresholds": found.thresholds, **shared, **other, **rest}
    assert [found.images for found in (nyud, pascal, bsds)] == [654, 2498, 200]
    assert protocol(nyud) is nyud
    with pytest.raises(ValueError, match="among nyud, pascal, bsds, got cityscapes"):
        protocol("cityscapes")


@pytest.fixture(scope="module")
def scores() -> BoundaryScores:
    probability, truth = smooth_map(4)
    return evaluate_boundaries([probability], [[truth]], workers=1, **protocol("nyud").settings)


def test_the_curves_picture(scores, tmp_path):
    plot_curve(scores, tmp_path / "curve.png", title="nyud")
    plot_curve({"a": scores, "b": scores}, tmp_path / "curve.svg")
    picture = np.asarray(Image.open(tmp_path / "curve.png").convert("RGB"))
    assert picture.shape == (900, 900, 3)
    assert (picture == (31, 119, 180)).all(-1).sum() > 200  # the line in matplotlib's first colour
    assert (tmp_path / "curve.svg").read_text().startswith("<?xml")
    with pytest.raises(ValueError, match="not supported"):
        plot_curve(scores, tmp_path / "curve.doc")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.png", "curve.svg"]


def test_what_the_curves_picture_shows(scores, tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: path.touch() or figures.append(self))
    plot_curve({"model": scores}, tmp_path / "curve.png", title="nyud")
    (axes,) = figures[0].axes
    assert (axes.get_title(), axes.get_xlim(), axes.get_ylim()) == ("nyud", (0, 1), (0, 1))
    *same, curve, best = axes.lines
    assert len(same) == len(axes.texts) == 9
    for tenths, line, label in zip(range(1, 10), same, axes.texts, strict=True):
        recall, precision = line.get_data()
        assert scipy.stats.hmean([recall, precision]) == pytest.approx(tenths / 10)
        assert (recall[-1], precision[0]) == (pytest.approx(1), pytest.approx(1))
        assert (label.get_text(), label.xy) == (f"0.{tenths}", (1, pytest.approx(precision[-1])))
    drawn = [k for k, counts in enumerate(scores.counts[0].tolist()) if counts[3]]
    assert 0 < len(drawn) < 101
    assert np.array_equal(curve.get_data(), [x[drawn] for x in scores.curve()[::-1]])
    assert [x.item() for x in best.get_data()] == [scores.recall, scores.precision]
    assert curve.get_label() == f"model odsF {100 * scores.ods:.2f}, AP {100 * scores.ap:.2f}"


def test_where_nothing_is_predicted_the_protocols_differ_in_ap_alone():
    """Hand-made counts: precision 0.5 at recall 0.5, then nothing predicted: a curve from (0, p) to (0.5, 0.5)."""
    counts = np.array([[[5, 10, 5, 10], [0, 10, 0, 0]]])
    for name, at_zero in (("bsds", 0.0), ("nyud", 1.0), ("pascal", 1.0)):
        scores = pool(counts, [0.5, 0.9], protocol(name).empty_precision)
        heights = [at_zero + (0.5 - at_zero) * k / 50 for k in range(51)]  # recalls 0, 0.01 … 0.5; 0 beyond
        assert scores.ap == pytest.approx(sum(heights) / 100)
        assert (scores.ods, scores.ois) == (0.5, 0.5)
        assert scores.curve()[0].tolist() == [0.5, at_zero]
    line = np.zeros((40, 40))
    line[20, 10:30] = 0.6  # and nothing above: the curve goes from (0, p) to (1, 1)
    settings = {**protocol("nyud").settings, "workers": 1, "suppress": False}
    assert evaluate_boundaries([line], [[line > 0]], **settings).ap == pytest.approx(1.01)
    settings["empty_precision"] = 0.0
    assert evaluate_boundaries([line], [[line > 0]], **settings).ap == pytest.approx(0.505)


def test_suppression_equals_a_loop_over_pixels():
    """The benchmark's definition written out: filter, derivatives, orientation, neighbours, fading borders."""
    random = np.random.default_rng(5)
    image = cv2.GaussianBlur(random.random((21, 26)), (0, 0), 1.2)
    image = (image - image.min()) / np.ptp(image)
    height, width = image.shape
    radius = 4
    kernel = [min(k, 2 * radius + 2 - k) / (radius + 1) ** 2 for k in range(1, 2 * radius + 2)]

    def mirrored(i, n):
        return -i - 1 if i < 0 else 2 * n - i - 1 if i >= n else i

    def filtered(rows):
        return [
            [sum(w * row[mirrored(x + k - radius, len(row))] for k, w in enumerate(kernel)) for x in range(len(row))]
            for row in rows
        ]

    smooth = np.array(filtered(np.array(filtered(image)).T)).T

    def slope(a, i, n):  # central inside, one-sided at the ends
        return (a(min(i + 1, n - 1)) - a(max(i - 1, 0))) / (min(i + 1, n - 1) - max(i - 1, 0))

    def in_x(y, x):
        return slope(lambda i: smooth[y, i], x, width)

    def in_y(y, x):
        return slope(lambda i: smooth[i, x], y, height)

    def at(y, x):
        y, x = min(max(y, 0), height - 1.001), min(max(x, 0), width - 1.001)
        top, left = int(y), int(x)
        low, right = y - top, x - left
        return (
            image[top, left] * (1 - low) * (1 - right)
            + image[top, left + 1] * (1 - low) * right
            + image[top + 1, left] * low * (1 - right)
            + image[top + 1, left + 1] * low * right
        )

    expected = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            xx = slope(lambda i, y=y: in_x(y, i), x, width)
            yy = slope(lambda i, x=x: in_y(i, x), y, height)
            xy = slope(lambda i, y=y: in_y(y, i), x, width)
            angle = math.atan(yy * np.sign(-xy) / (xx + 1e-5)) % math.pi
            neighbours = [at(y + side * math.sin(angle), x + side * math.cos(angle)) for side in (-1, 1)]
            if all(1.01 * image[y, x] >= neighbour for neighbour in neighbours):
                fade = math.prod(min(min(i, n - 1 - i) / 5, 1) for i, n in ((y, height), (x, width)))
                expected[y, x] = image[y, x] * fade
    found = suppress_non_maxima(image)
    assert 0.05 < (found > 0).mean() < 0.8
    np.testing.assert_allclose(found, expected, atol=1e-12)
