"""The records of tasks: those that contradict themselves are refused."""

from dataclasses import replace

import pytest
import torch

from mtmamba.tasks import Task, all_tasks, get_task, register
from mtmamba.tasks.pictures import IGNORED_COLOUR, stretched
from mtmamba.types import IGNORE


def test_records_that_contradict_themselves_are_refused():
    before = all_tasks()
    for change, message in (
        ({"name": "my task"}, "identifier"),
        ({"name": "image"}, "none of a batch's"),
        ({"name": "labels"}, "none of a batch's"),
        ({"name": "type"}, "or a module's own, got 'type'"),
        ({"headline": "PSNR"}, "units for the headline"),
        ({"lower_is_better": ["PSNR"]}, "all of lower_is_better"),
    ):
        with pytest.raises(ValueError, match=message):
            register(replace(get_task("depth"), **change))
    assert all_tasks() == before
    register(before["depth"])  # again, in its old place
    assert list(all_tasks()) == list(before)


def test_a_record_of_the_needed_fields_fits_a_map_of_numbers_and_one_of_vectors():
    for channels in (None, 3):
        task = Task("heat", "Heat", lambda x, y: x, torch.exp, lambda n: None, "MAE", {"MAE": ""}, channels=channels)
        target = torch.rand(2, *([channels] if channels else []), 4, 5)
        prediction = task.predict(target.log().reshape(2, -1, 4, 5))
        torch.testing.assert_close(prediction, target)


def test_the_picture_of_any_numbers_goes_from_black_to_white():
    values = torch.tensor([[2.0, 4.0], [3.0, IGNORE]])
    assert stretched(values).tolist() == [[[0] * 3, [255] * 3], [[128] * 3, list(IGNORED_COLOUR)]]
    assert stretched(torch.stack([values, values, values])).tolist() == stretched(values).tolist()
    assert stretched(torch.full((2, 2), float(IGNORE))).tolist() == [[list(IGNORED_COLOUR)] * 2] * 2
