"""Tables of committed results, against numbers worked out by hand."""

import json
from pathlib import Path

import pytest

from mtmamba.report.evidence import EvidenceError, gains, read_results, tables, write_page

ROOT = Path(__file__).parents[2]


def add(folder, row, seed, miou, samples, rmse=None):
    run = folder / f"seed{seed}" / row
    run.mkdir(parents=True)
    scores = {"semseg": {"mIoU": miou, "protocol": "pooled"}} | ({} if rmse is None else {"depth": {"RMSE": rmse}})
    (run / "metrics.json").write_text(json.dumps({"seed": seed, "parameters": 1234567, "tasks": scores}))
    columns = ["semseg/mIoU", *(["depth/RMSE"] if rmse is not None else [])]
    lines = [",".join([str(x), *([str(rmse)] if rmse is not None else [])]) for x in samples]
    (run / "resamples.csv").write_text("\n".join([",".join(columns), *lines]) + "\n")
    (run / "training.csv").write_text("step,perf/images_per_second,perf/gpu_memory_gib\n1,10,2\n2,30,3\n3,20,\n")


def test_differences_are_paired_and_delta_m_is_over_the_single_task_rows(tmp_path):
    add(tmp_path, "mtmamba", 0, 30.0, [29, 31], rmse=0.5)
    add(tmp_path, "stm2", 0, 32.0, [31, 33], rmse=0.6)  # 2 more on every resample, though the intervals overlap
    add(tmp_path, "single_semseg", 0, 20.0, [19, 21])
    add(tmp_path, "single_depth", 0, 10.0, [9, 11], rmse=1.0)
    text = tables(read_results(tmp_path))
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if line}
    assert "**+2** (+2 … +2)" in rows["stm2"]
    assert "**+0.1** (+0.1 … +0.1)" in rows["stm2"]  # rises: worse, and marked all the same
    first = text.split("\n\n")[0]
    assert "| +50.00 | 1,234,567 | 20 | 3.0 |" in first  # (30 - 20) / 20 and (1 - 0.5) / 1, both 50 %
    assert "| +50.00 |" in first.splitlines()[5]  # stm2: 60 % and 40 %


def test_the_interval_of_delta_m_pairs_the_resamples_of_both_sides(tmp_path):
    add(tmp_path, "mtmamba", 0, 30.0, [20, 40, 60])
    add(tmp_path, "mtmamba", 1, 40.0, [30, 50, 70])
    add(tmp_path, "single_semseg", 0, 25.0, [10, 20, 30])
    # means over seeds 25, 45, 65 over 10, 20, 30: gains of 150, 125 and 116.67 %; of the scores, 35 over 25
    gain = gains(read_results(tmp_path))["mtmamba"]
    expected = [40, 0.95 * 116.666667 + 0.05 * 125, 0.05 * 125 + 0.95 * 150]  # 2.5 % lie 0.05 of a gap from the end
    assert list(gain) == pytest.approx(expected, rel=1e-6)


def test_several_seeds_show_their_spread(tmp_path):
    add(tmp_path, "mtmamba", 0, 30.0, [29, 31])
    add(tmp_path, "mtmamba", 1, 34.0, [33, 35])
    assert "| mtmamba | 0, 1 | 32 ± 2.8 |" in tables(read_results(tmp_path))


def test_a_page_without_marks_and_a_damaged_row_are_named(tmp_path):
    results, page = tmp_path / "results", tmp_path / "page.md"
    add(results / "demo", "mtmamba", 0, 30.0, [29, 31])
    page.write_text("nothing")
    with pytest.raises(EvidenceError, match="<!-- demo -->"):
        write_page(page, results)
    page.write_text("a <!-- demo --> old <!-- /demo --> b")
    write_page(page, results)
    assert page.read_text().startswith("a <!-- demo -->\n\n| row |")
    assert "old" not in page.read_text()
    row = results / "demo/seed0/mtmamba"
    for name, text in [
        ("resamples.csv", "semseg/mIoU\nmany\n"),
        ("resamples.csv", "semseg/mIoU\n"),
        ("resamples.csv", ""),
        ("training.csv", ""),
        ("metrics.json", "[]"),
        ("metrics.json", '{"seed": 0, "tasks": null}'),
    ]:
        sound = (row / name).read_text()
        (row / name).write_text(text)
        with pytest.raises(EvidenceError, match="seed0/mtmamba"):
            write_page(page, results)
        (row / name).write_text(sound)


def test_the_page_of_this_repository_is_the_one_that_its_results_give(tmp_path):
    page = tmp_path / "results.md"
    page.write_text((ROOT / "docs/results.md").read_text())
    write_page(page, ROOT / "results")
    assert page.read_text() == (ROOT / "docs/results.md").read_text()
