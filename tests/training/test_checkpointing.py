"""When checkpoints are written, hook by hook, with a trainer that notes what it is asked; whole runs are elsewhere."""

import signal
from types import SimpleNamespace

import pytest
from lightning.pytorch.trainer.states import TrainerFn

from mtmamba.training.checkpointing import Checkpointing, epoch_of, log_validation
from mtmamba.training.validations import Validations


class Run:
    """A trainer and its callback; `done` says what was written, with the optimiser steps made by then."""

    def __init__(self, folder, every=2, *, max_steps=100, accumulate=1, others=False):
        self.done, self.votes, others_asked = [], [], others
        self.callback = Checkpointing(every, Validations("val/loss", "min"))
        logger = SimpleNamespace(
            save=lambda: self.done.append("rows"), log_metrics=lambda values, row: self.done.append((row, values))
        )
        data = SimpleNamespace(dataset_of=lambda split: {"train": range(10)}[split], batch_size=4)

        def reduce(decision, all):
            self.votes.append(decision)
            return others_asked if all else decision or others_asked

        def save(path, weights_only):
            assert weights_only is False
            self.done.append((path.relative_to(folder).as_posix(), self.trainer.global_step))

        self.trainer = SimpleNamespace(
            global_step=0, current_epoch=0, max_steps=max_steps, accumulate_grad_batches=accumulate, world_size=1,
            limit_val_batches=1.0, val_check_interval=5, should_stop=False, sanity_checking=False, datamodule=data,
            default_root_dir=str(folder), loggers=[logger], callback_metrics={}, strategy=SimpleNamespace(
                reduce_boolean_decision=reduce), state=SimpleNamespace(fn=TrainerFn.FITTING),
            fit_loop=SimpleNamespace(state_dict=lambda: {"after": self.trainer.global_step}),
            save_checkpoint=save,
        )  # fmt: skip
        self.callback.on_train_start(self.trainer, None)

    def step(self, micro=1):
        """An optimiser step of so many micro-batches."""
        for i in range(micro):
            self.callback.on_train_batch_start(self.trainer, None, None, 0)
            if i == micro - 1:
                self.callback.on_before_optimizer_step(self.trainer, None, None)
                self.trainer.global_step += 1
            self.callback.on_train_batch_end(self.trainer, None, None, None, 0)

    def validate(self, **metrics):
        self.callback.on_validation_start(self.trainer, None)
        self.trainer.callback_metrics = {f"val/{name}": value for name, value in metrics.items()}
        self.callback.on_validation_end(self.trainer, None)

    def files(self):
        """What has been written since this was last asked, by file and step."""
        found = [(entry[0].removeprefix("checkpoints/").removesuffix(".ckpt"), entry[1])
                 for entry in self.done if entry != "rows" and isinstance(entry[0], str)]  # fmt: skip
        self.done.clear()
        return found


@pytest.fixture
def start(tmp_path):
    """Begin a run; its handlers of signals are taken back at the end."""
    runs = []
    yield lambda **options: runs.append(Run(tmp_path, **options)) or runs[-1]
    for run in runs:
        run.callback.teardown(run.trainer, None, "fit")


@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_last_checkpoint_is_written_when_the_next_step_begins(start, accumulate):
    run = start(every=2, accumulate=accumulate)
    for step in range(1, 6):
        run.step(accumulate)
        assert run.files() == ([("last", step - 1)] if step in (3, 5) else [])
    run.callback.on_train_end(run.trainer, None)
    assert run.done == ["rows", ("checkpoints/last.ckpt", 5)]
    run.done.clear()
    run.callback.on_train_end(run.trainer, None)
    assert run.files() == []


def test_nothing_is_written_before_the_first_step(start):
    run = start()
    run.callback.on_train_batch_start(run.trainer, None, None, 0)
    run.callback.on_train_end(run.trainer, None)
    assert run.files() == []


def test_a_resumed_run_counts_on(start):
    run = start(every=2)
    run.trainer.global_step = 4
    run.callback.on_train_start(run.trainer, None)
    run.callback.on_train_batch_end(run.trainer, None, None, None, 0)  # amid an accumulated batch
    run.callback.on_train_end(run.trainer, None)
    assert run.files() == []
    run.step()
    run.callback.on_train_end(run.trainer, None)
    assert run.files() == [("last", 5)]


def test_a_validation_is_preceded_and_followed_by_the_last_checkpoint_and_the_best_comes_between(start):
    run = start(every=100)
    run.step()
    run.validate(loss=2.0)
    assert run.files() == [("last", 1), ("best", 1), ("last", 1)]
    run.step()
    run.validate(loss=3.0)
    assert run.files() == [("last", 2), ("last", 2)]
    run.step()
    run.validate(other=1.0)  # the monitored score is not there
    assert run.files() == [("last", 3), ("last", 3)]
    assert run.callback.state_dict()["scores"] == {1: 2.0, 2: 3.0, 3: pytest.approx(float("nan"), nan_ok=True)}
    assert run.callback.validations.best == (1, 2.0)


@pytest.mark.parametrize("change", [{"sanity_checking": True}, {"state": SimpleNamespace(fn=TrainerFn.VALIDATING)}])
def test_validations_outside_training_write_nothing(start, change):
    run = start()
    run.step()
    vars(run.trainer).update(change)
    run.validate(loss=1.0)
    assert run.done == []
    assert run.callback.validations.scores == {}


def test_the_last_step_ends_training(start):
    run = start(max_steps=2)
    run.step()
    assert not run.trainer.should_stop
    run.step()
    assert run.trainer.should_stop


@pytest.mark.parametrize(
    ("step", "due"), [(0, False), (3, False), (5, True), (7, False), (10, True), (12, True), (15, False)]
)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_validation_is_due_at_intervals_and_at_the_end(start, step, due, accumulate):
    run = start(max_steps=12, accumulate=accumulate)
    run.trainer.val_check_interval = 5 * accumulate
    run.callback.validations.scores = {15: 1.0}
    assert run.callback.is_due(run.trainer, step) is due
    run.trainer.val_check_interval = 1.0
    assert run.callback.is_due(run.trainer, step) is (step == 12)
    run.trainer.limit_val_batches = 0
    assert run.callback.is_due(run.trainer, step) is False


@pytest.mark.parametrize("others", [False, True])
def test_one_who_is_asked_stops_all_after_the_step_at_hand(start, others):
    """The question reaches another process, or this one by a signal; a second signal stops at once."""
    run = start(every=100, others=others)
    if not others:
        signal.raise_signal(signal.SIGTERM)
    run.step()
    assert run.votes == [not others]
    with pytest.raises(KeyboardInterrupt):
        run.callback.on_train_batch_start(run.trainer, None, None, 0)
    assert run.files() == [("last", 1)]
    with pytest.raises(KeyboardInterrupt):
        run.callback.on_validation_start(run.trainer, None)
    if not others:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("sweep", [False, True])
def test_who_is_stopped_is_told_how_to_go_on(start, tmp_path, caplog, sweep):
    """A row of a sweep goes on with the sweep."""
    run = start(every=100)
    run.trainer.default_root_dir = str(tmp_path / "0")
    if sweep:
        (tmp_path / "multirun.yaml").touch()
    with caplog.at_level("INFO"):
        signal.raise_signal(signal.SIGTERM)
        run.step()
        with pytest.raises(KeyboardInterrupt):
            run.callback.on_train_batch_start(run.trainer, None, None, 0)
    how = f"the same call and hydra.sweep.dir={tmp_path}" if sweep else f"resume={tmp_path}/0"
    assert caplog.messages[-1] == f"Stopped after step 1; go on with {how}"


def test_one_who_is_asked_during_a_validation_stops_after_it(start):
    run = start(every=100)
    run.step()
    run.callback.on_validation_start(run.trainer, None)
    signal.raise_signal(signal.SIGHUP)
    run.trainer.callback_metrics = {"val/loss": 1.0}
    run.callback.on_validation_end(run.trainer, None)
    assert run.files() == [("last", 1), ("best", 1), ("last", 1)]
    with pytest.raises(KeyboardInterrupt):
        run.callback.on_train_batch_start(run.trainer, None, None, 0)


def test_under_nohup_a_closed_terminal_stops_nothing(start):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    run = start()
    signal.raise_signal(signal.SIGHUP)
    assert not run.callback.asked
    run.callback.teardown(run.trainer, None, "fit")
    assert signal.signal(signal.SIGHUP, before) == signal.SIG_IGN


def test_signals_are_given_back(start):
    before = signal.getsignal(signal.SIGTERM)
    run = start()
    assert signal.getsignal(signal.SIGTERM) != before
    run.callback.teardown(run.trainer, None, "fit")
    assert signal.getsignal(signal.SIGTERM) == before


def test_an_exception_leaves_the_last_complete_step_unless_weights_are_half_changed(start):
    def after(exception=OSError(), stepping=False, **changes):  # noqa: B008 - is only looked at
        run = start(every=100)
        run.step()
        if stepping:
            run.callback.on_before_optimizer_step(run.trainer, None, None)
        vars(run.trainer).update(changes)
        run.callback.on_exception(run.trainer, None, exception)
        return run.files()

    assert after() == [("last", 1)]
    assert after(KeyboardInterrupt()) == []
    assert after(stepping=True) == []
    assert after(world_size=2) == []
    assert after(state=SimpleNamespace(fn=TrainerFn.TESTING)) == []


def test_a_checkpoint_stands_right_after_its_step(start):
    run = start()
    run.step()
    run.trainer.current_epoch, run.trainer.fit_loop.state_dict = 7, lambda: "amid the next step's batches"
    run.callback.on_train_batch_end(run.trainer, None, None, None, 0)
    for step, loops, epoch in ((1, {"after": 1}, 0), (2, "its own", 7)):
        content = {"global_step": step, "epoch": 7, "loops": {"fit_loop": "its own"}}
        run.callback.on_save_checkpoint(run.trainer, None, content)
        assert (content["loops"]["fit_loop"], content["epoch"]) == (loops, epoch)


def test_a_checkpoints_record_leaves_the_best_that_its_own_file_told(start):
    run = start()
    run.callback.validations.best = (3, 0.5)
    record = {"monitor": "val/loss", "mode": "min", "scores": {3: 0.5, 6: 0.4}, "best": [6, 0.4]}
    run.callback.load_state_dict(record)
    assert (run.callback.validations.scores, run.callback.validations.best) == ({3: 0.5, 6: 0.4}, (3, 0.5))


def test_scores_are_logged_to_the_row_and_epoch_of_their_step(start):
    run = start()
    run.trainer.callback_metrics = {"val/loss": 1, "train/loss": 2}
    log_validation(run.trainer, 5)
    assert run.done == [(5, {"epoch": 2, "val/loss": 1.0}), "rows"]
    run.done.clear()
    run.trainer.global_step = 4
    run.validate(loss=2)
    assert run.done[0] == (3, {"epoch": 1, "val/loss": 2.0})


@pytest.mark.parametrize(("batch", "epochs"), [(4, [0, 0, 1, 1, 2]), (10, [0, 1, 2, 3, 4]), (12, [0, 1, 2, 3, 4])])
def test_an_epoch_has_as_many_steps_as_whole_batches_and_at_least_one(start, batch, epochs):
    trainer = start().trainer
    trainer.datamodule.batch_size = batch
    assert [epoch_of(trainer, step) for step in range(5)] == epochs
