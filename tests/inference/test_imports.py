"""Prediction and the doctor start without what only training needs."""

import json
import subprocess
import sys

LIST = "import json, sys, mtmamba.inference.predict, mtmamba.doctor.report; print(json.dumps(list(sys.modules)))"


def test_prediction_imports_nothing_of_training():
    done = subprocess.run([sys.executable, "-c", LIST], capture_output=True, text=True, check=True)
    absent = {"lightning", "albumentations", "torchmetrics", "wandb", "matplotlib", "av", "gradio"}
    absent |= {"scipy.io", "scipy.ndimage"}
    assert absent & set(json.loads(done.stdout)) == set()
