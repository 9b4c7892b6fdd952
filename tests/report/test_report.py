"""The report's tables: which runs count, what stands beside the paper's numbers, and what must not."""

import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from fake_runs import PAPER, configuration, paper_scores, write_logs, write_run
from mtmamba import paper as published
from mtmamba.metrics import delta_m
from mtmamba.report.compare import compare, truncate
from mtmamba.report.evaluations import join_evaluations
from mtmamba.report.gain import LOWER
from mtmamba.report.groups import as_text, group_runs
from mtmamba.report.request import ReportError
from mtmamba.report.runs import find_runs
from mtmamba.report.tables import other_runs, paper_table

NYUD = "semseg depth normals edge"
PASCAL = "semseg human_parts sal normals edge"
PASCAL_TABLE = "1, PASCAL-Context"
STAR = "55.82 0.5066 18.63 78.70"
NOTHING_DERIVED = {"nyud": [], "pascal_context": []}
GRADED = [row for table in published.TABLES for row in table.rows if row.delta_m]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Compose each configuration once for all tests, and count the FLOPs of none: these runs' sizes are made up."""
    monkeypatch.setattr("mtmamba.report.compare.load_config", lambda overrides: configuration(tuple(overrides)))
    monkeypatch.setattr("mtmamba.report.compare.network_stats", lambda _: SimpleNamespace(total_parameters=0))


def groups_below(folder):
    runs, broken = find_runs([str(folder)])
    groups, repeated = group_runs(join_evaluations(runs))
    return groups, [*broken, *repeated]


def lines_below(folder, derived=NOTHING_DERIVED):
    return compare(groups_below(folder)[0], derived)[0]


def line(lines, number, name):
    (found,) = (line for line in lines[number] if line.row.name == name)
    return found


def texts(table):
    return [[cell.text for cell in row] for row in table.rows]


def write_single_tasks(folder, values="54.32 0.5166 19.21 77.30", more="", leave_out=()):
    for task, value in zip(NYUD.split(), values.split(), strict=True):
        if task not in leave_out:
            write_run(folder / task, f"{PAPER} decoder=swin2 tasks=[{task}] {more}", paper_scores(task, value))


@pytest.mark.parametrize("row", GRADED, ids=lambda row: row.name)
def test_every_printed_delta_m_follows_from_the_printed_scores(row):
    scores = {task: float(value) for task, value in row.scores.items()}
    base = {task: float(value) for task, value in published.SINGLE_TASK.scores.items()}
    assert truncate(delta_m(scores, base, LOWER), 2) == float(row.delta_m)


def test_the_papers_base_is_that_of_the_dataset():
    base = configuration((PAPER,)).data.delta_m_base
    assert {task: f"{score}" for task, score in published.SINGLE_TASK.scores.items()} == {
        task: f"{base[task][metric]:.{4 if task == 'depth' else 2}f}"
        for task, metric in published.METRICS.items()
        if task in base
    }


@pytest.mark.parametrize("own_base", [False, True])
def test_the_papers_scores_give_the_papers_table(tmp_path, own_base):
    """Every row of Table 2 that one run makes: no difference anywhere, Delta_m included, over either base."""
    rows = {row.name: row for row in next(t for t in published.TABLES if t.number == "2").rows}
    del rows["Single-task 2*Swin"]
    for i, row in enumerate(rows.values()):
        write_run(tmp_path / str(i), f"{PAPER} {row.networks[0]}", paper_scores(NYUD, " ".join(row.scores.values())))
    if own_base:
        write_single_tasks(tmp_path / "single")
    table = paper_table("2", lines_below(tmp_path)["2"])
    heads = [(column.group, column.name) for column in table.columns]
    assert heads[14:17] == [("Δm, % ↑", "ours"), ("Δm, % ↑", "paper"), ("Δm, % ↑", "diff.")]
    for row in texts(table)[0 if own_base else 1 :]:
        for ours, paper, difference in (row[2:5], row[5:8], row[8:11], row[11:14], row[14:17]):
            assert ours == paper
            assert float(difference) == 0
    paper = "the paper's single-task row (54.32 / 0.5166 / 19.21 / 77.30)"
    assert table.notes == [f"[1] Δm over {'our single-task runs (n = 1, 1, 1, 1)' if own_base else paper}."]


def test_mean_spread_and_difference_over_seeds(tmp_path):
    values = np.array([[55.1, 0.51, 18.5, 78.0], [56.2, 0.50, 18.9, 78.4], [55.5, 0.52, 18.4, 79.1]])
    for seed, row in enumerate(values):
        write_run(tmp_path / f"sweep/{seed}", PAPER, paper_scores(NYUD, " ".join(map(str, row))), seed=seed)
    found = line(lines_below(tmp_path), "5", "adaptive g")
    mean, deviation = values.mean(0), values.std(0, ddof=1)
    for i, (task, paper) in enumerate(zip(NYUD.split(), STAR.split(), strict=True)):
        assert found.figures[task].ours == pytest.approx((mean[i], deviation[i], 3))
        assert found.figures[task].difference == pytest.approx(mean[i] - float(paper))
    base, signs = np.array([54.32, 0.5166, 19.21, 77.30]), np.array([1, -1, -1, 1])
    gains = (100 * signs * (values - base) / base).mean(1)
    assert found.figures["delta_m"].ours == pytest.approx((gains.mean(), gains.std(ddof=1), 3))
    shown = texts(paper_table("5", lines_below(tmp_path)["5"]))[-1]
    assert shown[1:5] == ["3", f"{mean[0]:.2f} ± {deviation[0]:.2f}", "55.82", "−0.22"]
    assert [cell.tone for cell in paper_table("5", lines_below(tmp_path)["5"]).rows[-1]][4:8:3] == ["worse", "worse"]


def test_rows_without_a_run_stay_with_the_papers_numbers(tmp_path):
    write_run(tmp_path / "demo", "experiment=demo", paper_scores("depth", "0.8"))
    for number, lines in lines_below(tmp_path).items():
        table = paper_table(number, lines)
        assert not table.has_runs
        assert {cell for row in texts(table) for cell in row[1:3]} == {"-"}
    assert "36.34" in texts(paper_table("1, NYUDv2", lines_below(tmp_path)["1, NYUDv2"]))[0]


@pytest.mark.parametrize(
    ("leave_out", "more", "expected"),
    [
        ((), "", "our single-task runs (n = 1, 1, 1, 1)"),
        (("edge",), "", "the paper's single-task row"),
        ((), "trainer.max_steps=500", "the paper's single-task row"),
    ],
)
def test_delta_m_is_over_our_single_task_runs_if_all_are_there_and_trained_alike(tmp_path, leave_out, more, expected):
    write_single_tasks(tmp_path, "50 0.5 20 70", more, leave_out)
    write_run(tmp_path / "multi", PAPER, paper_scores(NYUD, "55 0.45 18 77"))
    found = line(lines_below(tmp_path), "2", "2*STM+1*CTM")
    (note,) = found.notes
    assert note.startswith(f"Δm over {expected}")
    assert (found.figures["delta_m"].ours.mean == pytest.approx(10)) == expected.startswith("our")


def test_another_encoder_has_no_base_but_its_own(tmp_path):
    write_run(tmp_path / "tiny", f"{PAPER} encoder=swin_tiny", paper_scores(NYUD, STAR))
    assert line(lines_below(tmp_path), "6", "Swin-Tiny").figures["delta_m"].ours is None
    write_single_tasks(tmp_path / "single", more="encoder=swin_tiny")
    assert truncate(line(lines_below(tmp_path), "6", "Swin-Tiny").figures["delta_m"].ours.mean, 2) == 2.38


def test_a_loss_is_never_put_beside_odsf(tmp_path):
    scores = paper_scores("semseg depth normals", "55.82 0.5066 18.63") | {"edge": {"loss": 0.04}}
    write_run(tmp_path / "run", PAPER, scores)
    found = line(lines_below(tmp_path), "2", "2*STM+1*CTM")
    assert found.figures["edge"] == (None, "78.70", 2, False, False)
    assert found.figures["delta_m"].ours is None
    scored = "edge: scored by loss, which does not compare with the paper's odsF"
    assert found.notes == [scored]  # a gain of three tasks over the published four is not shown
    write_single_tasks(tmp_path / "single")
    three = (1.5 / 54.32 + 0.01 / 0.5166 + 0.58 / 19.21) / 0.03
    notes = line(lines_below(tmp_path), "2", "2*STM+1*CTM").notes
    assert notes[0] == scored
    assert notes[1].startswith("Δm over our single-task runs")
    assert notes[1].endswith(f"of semseg, depth, normals: {truncate(three, 2):+.2f} %, which does not compare")


def test_scores_on_derived_labels_are_never_put_beside_the_papers(tmp_path):
    write_run(tmp_path / "run", PAPER, paper_scores(NYUD, STAR))
    found = line(lines_below(tmp_path, {"nyud": ["normals", "edge"]}), "5", "adaptive g")
    assert [task for task, figure in found.figures.items() if figure.ours is not None] == ["semseg", "depth"]
    assert sum("derived labels" in note for note in found.notes) == 2
    assert not any("Δm" in note for note in found.notes)  # the published base is of four tasks


def test_saliency_compares_as_published(tmp_path):
    scores = paper_scores(PASCAL, "81.11 72.62 84.14 14.14 78.80")
    scores["sal"]["maxF"] = 80.0
    write_run(tmp_path / "run", "experiment=pascal_mtmamba", scores)
    (row,) = [
        row for row in texts(paper_table(PASCAL_TABLE, lines_below(tmp_path)[PASCAL_TABLE])) if row[0] == "MTMamba"
    ]
    assert row[8:11] == ["84.14", "84.14", "0.00"]


def test_no_difference_is_taken_to_scores_of_another_encoder(tmp_path):
    for decoder in ("atrc", "pap", "mtmamba"):
        write_run(tmp_path / decoder, f"{PAPER} decoder={decoder}", paper_scores(NYUD, "50 0.5 19 78"))
    number = "1, NYUDv2"
    table = paper_table(number, lines_below(tmp_path)[number])
    assert table.columns[-1].name == "the paper's encoder"
    rows = {row[0].partition(" [")[0]: [*row[2:5], row[-1]] for row in texts(table)}
    assert rows["ATRC"] == ["50.00", "46.33", "-", "HRNet-48 ?"]
    assert rows["PAP"] == ["-", "36.72", "-", "HRNet-18-small ?"]
    assert rows["PAP-style (reconstruction)"] == ["50.00", "-", "-", "-"]
    assert rows["MTMamba"] == ["50.00", "55.82", "−5.82", "swin_large"]
    assert any("brings Swin's maps to HRNet-48's widths" in note for note in table.notes)
    assert any(note.endswith("are the encoder's, not the decoder's.") for note in table.notes)


def test_other_runs_say_why(tmp_path):
    write_run(tmp_path / "a", PAPER, paper_scores(NYUD, STAR), images=164)
    write_run(tmp_path / "b", f"{PAPER} tasks=[semseg,depth]", paper_scores("semseg depth", "50 0.6"))
    write_run(tmp_path / "c", "experiment=demo", {"edge": {"loss": 0.0771}})
    write_run(tmp_path / "d", "experiment=demo trainer.max_steps=5", {"edge": {"loss": 0.1}})
    lines, others = compare(groups_below(tmp_path)[0], NOTHING_DERIVED)
    assert not any(line.members for rows in lines.values() for line in rows)
    rows = {row[0]: row[1:] for row in texts(other_runs(others))}
    assert rows["nyud · swin_large · mtmamba"][-1] == "scored on 164 images of val, the paper on 654 of val"
    assert rows["nyud · swin_large · mtmamba · [semseg, depth]"][2:] == [
        "50.00", "0.6000", "-", "-", "-", "-", "no such row in the paper"
    ]  # fmt: skip
    assert rows["synthetic · swin_micro · mtmamba · [edge] (2)"][-3:-1] == ["0.1000", "trainer.max_steps=5"]


def test_runs_trained_otherwise_are_a_line_of_their_own_with_their_settings(tmp_path):
    write_run(tmp_path / "long", PAPER, paper_scores(NYUD, STAR))
    write_run(tmp_path / "short", f"{PAPER} trainer.max_steps=500 optimizer.lr=3e-4", paper_scores(NYUD, "9 1 40 20"))
    elsewhere = f"{PAPER} data.root=/data data.num_workers=3 data.check=all"
    write_run(tmp_path / "elsewhere", elsewhere, paper_scores(NYUD, STAR), seed=1)
    lines = [line for line in lines_below(tmp_path)["5"] if line.row.name == "adaptive g"]
    assert [line.figures["semseg"].ours.n for line in lines] == [2, 1]
    assert [line.departures for line in lines] == ["", "optimizer.lr=0.0003, trainer.max_steps=500"]


def test_folders_that_hold_no_finished_run_are_listed_with_the_reason(tmp_path):
    run = write_run(tmp_path / "good", PAPER, paper_scores(NYUD, STAR))
    config = (run / "config.yaml").read_text()
    for name in ("stopped", "new", "nonfinite", "json", "keys", "tasks", "files", "good/wandb/files", "good/.hydra"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.yaml").write_text(config)
    write_logs(tmp_path / "stopped")
    (tmp_path / "nonfinite/nonfinite_batch.json").write_text("{}")
    (tmp_path / "json/metrics.json").write_text("{")
    record = json.loads((run / "metrics.json").read_text())
    (tmp_path / "keys/metrics.json").write_text(
        json.dumps({k: v for k, v in record.items() if k not in ("seed", "step")})
    )
    (tmp_path / "files/metrics.json").write_text(json.dumps({"predictions": "somewhere"}))
    (tmp_path / "tasks/metrics.json").write_text(json.dumps(record | {"tasks": {"flow": {}}}))
    write_run(tmp_path / "bare", PAPER, {})
    (tmp_path / "bare/config.yaml").unlink()
    write_run(tmp_path / "yaml", PAPER, {})
    (tmp_path / "yaml/config.yaml").write_text("a: [")

    groups, left_out = groups_below(tmp_path)
    assert [str(run.folder) for group in groups for run in group.runs] == [str(tmp_path / "good")]
    reasons = {str(item.folder.relative_to(tmp_path)): item.reason for item in left_out}
    assert reasons.pop("json").startswith("metrics.json cannot be read: ")
    assert reasons.pop("yaml").startswith("config.yaml cannot be read: ")
    assert reasons == {
        "stopped": "unfinished: no metrics.json; the last logged step is 20",
        "new": "unfinished: no metrics.json; nothing was logged",
        "nonfinite": "stopped by a loss that was not finite: nonfinite_batch.json names the images",
        "keys": "metrics.json lacks seed, step",
        "tasks": "metrics.json holds unknown tasks, flow: extensions=[FILE.py] adds yours",
        "files": "scores of prediction files, not of a model that is known here",
        "bare": "no config.yaml",
    }


def test_a_repeated_seed_counts_once(tmp_path):
    for i, name in enumerate(("late", "early")):
        run = write_run(tmp_path / name, PAPER, paper_scores(NYUD, STAR))
        os.utime(run / "metrics.json", (100 - i, 100 - i))
    groups, left_out = groups_below(tmp_path)
    assert [[run.folder.name for run in group.runs] for group in groups] == [["late"]]
    assert [(item.folder.name, item.reason) for item in left_out] == [
        ("early", f"repeated with the same seed, 0, by {tmp_path}/late")
    ]


def write_evaluation(folder, trained, edge=78.7, **record):
    """Of a run's checkpoint: odsF beside the loss."""
    scores = paper_scores(NYUD, f"55.82 0.5066 18.63 {edge}")
    scores["edge"] |= {"loss": 0.04, "protocol": "odsF"}
    return write_run(folder, PAPER, scores, **({"checkpoint": str(trained / "checkpoints/best.ckpt")} | record))


@pytest.mark.parametrize(
    ("trained", "evaluated"),
    [({}, {}), ({"checkpoint_sha256": "a1"}, {"checkpoint_sha256": "a1", "checkpoint": "/moved/last.ckpt"})],
)
def test_an_evaluation_adds_to_the_run_that_trained_its_checkpoint(tmp_path, trained, evaluated):
    scores = paper_scores("semseg depth normals", "55.82 0.5066 18.63") | {"edge": {"loss": 0.04, "protocol": "loss"}}
    run = write_run(tmp_path / "train/0", PAPER, scores, **trained)
    write_evaluation(tmp_path / "eval/0", run, **evaluated)
    (group,), left_out = groups_below(tmp_path)
    assert left_out == []
    assert [str(path.relative_to(tmp_path)) for path in group.runs[0].evaluations] == ["eval/0"]
    assert group.summary("edge", "odsF") == (78.7, None, 1)
    assert [group.runs[0].protocol(task) for task in ("depth", "edge")] == ["the paper's", "odsF"]
    assert line(lines_below(tmp_path), "5", "adaptive g").figures["delta_m"].difference == pytest.approx(0)


@pytest.mark.parametrize(
    ("record", "told", "reason"),
    [
        (
            {"tta": {"flip": True, "scales": [1.0]}},
            "tta.flip=true, tta.scales=[1.0]",
            "scored with test-time augmentation, the paper without",
        ),
        ({"images": 100}, "images=100", "scored on 100 images of val, the paper on 654 of val"),
        ({"split": "train"}, "split=train", "scored on 654 images of train, the paper on 654 of val"),
    ],
)
def test_an_evaluation_of_another_kind_adds_nothing(tmp_path, record, told, reason):
    run = write_run(tmp_path / "train", PAPER, paper_scores("semseg depth normals edge", STAR))
    write_evaluation(tmp_path / "eval", run, edge=99, **record)
    groups, _ = groups_below(tmp_path)
    others = compare(groups, NOTHING_DERIVED)[1]
    assert [(group.runs[0].folder.name, why) for group, why in others.items()] == [("eval", reason)]
    assert [group.differs_in for group in others] == [f"evaluation of a checkpoint, {told}"]
    assert line(lines_below(tmp_path), "5", "adaptive g").figures["edge"].ours == (78.7, None, 1)


def test_a_score_of_some_seeds_says_of_how_many(tmp_path):
    scores = paper_scores("semseg depth normals", "55.82 0.5066 18.63") | {"edge": {"loss": 0.04}}
    for images in (654, 3):
        for seed in (0, 1):
            write_run(tmp_path / f"{images}/{seed}", PAPER, scores, seed=seed, images=images)
        write_evaluation(tmp_path / f"{images}/eval", tmp_path / f"{images}/1", images=images)
    lines, others = compare(groups_below(tmp_path)[0], NOTHING_DERIVED)
    found = line(lines, "5", "adaptive g")
    assert found.notes[0] == "edge: of 1 of 2 runs"
    assert (found.figures["semseg"].ours.n, found.figures["delta_m"].ours.n) == (2, 1)
    assert "78.70 (n = 1)" in texts(other_runs(others))[0]


def test_an_evaluation_alone_says_that_its_training_is_unknown(tmp_path):
    write_evaluation(tmp_path / "eval", tmp_path / "nowhere", tta={"flip": False, "scales": [1.0]})
    assert line(lines_below(tmp_path), "5", "adaptive g").departures == "checkpoint of unknown training"


def test_odsf_compares_on_the_papers_images_only(tmp_path):
    boundaries = {"edge": {"boundaries": {"name": "pascal", "images": 5105}}}
    scores = paper_scores(PASCAL, "81.11 72.62 84.14 14.14 78.80")
    write_run(tmp_path / "all", "experiment=pascal_mtmamba", scores, protocols=boundaries)
    found = line(lines_below(tmp_path), PASCAL_TABLE, "MTMamba")
    assert found.figures["edge"].ours is None
    assert found.notes == ["edge: odsF by pascal on 5105 images; the paper's is by pascal on 2498"]
    write_run(tmp_path / "list/0", "experiment=pascal_mtmamba", scores)
    assert line(lines_below(tmp_path / "list"), PASCAL_TABLE, "MTMamba").figures["edge"].difference == 0


def test_patterns_that_match_nothing_are_named(tmp_path):
    with pytest.raises(ReportError, match=r"nowhere.*correct `runs`"):
        find_runs([f"{tmp_path}/nowhere*"])
    with pytest.raises(ReportError, match=r"config\.yaml.*train a model"):
        find_runs([str(tmp_path)])


def test_globs_and_overlapping_folders_count_a_run_once(tmp_path):
    for name in ("a_sweep/0", "a_sweep/1", "b/0"):
        write_run(tmp_path / name, PAPER, {})
    runs, _ = find_runs([f"{tmp_path}/*_sweep", str(tmp_path / "a_sweep/1"), f"{tmp_path}/a*"])
    assert [str(run.folder.relative_to(tmp_path)) for run in runs] == ["a_sweep/0", "a_sweep/1"]


def test_a_rows_overrides_mean_what_the_configuration_makes_of_them():
    for table in published.TABLES:
        for overrides in (overrides for row in table.rows for overrides in row.networks):
            cfg = configuration((PAPER, *overrides.split()))
            assert published.network_of(overrides) == (*(cfg.choices[g] for g in published.DEFAULTS), tuple(cfg.tasks))


def test_settings_are_written_as_on_the_command_line():
    assert as_text({"a": None, "b": True, "c": [1, "x"], "d": 0.5}) == "a=null, b=true, c=[1, x], d=0.5"
