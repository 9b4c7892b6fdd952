"""PAD-Net's names in the survey's checkpoints."""

from torch import Tensor

from mtmamba.models.adapters.decoder import decoder_views
from mtmamba.models.adapters.views import State, Views
from mtmamba.models.decoders.pad_net import PADNet

NORM = ("weight", "bias", "running_mean", "running_var")


@decoder_views.register
def _(decoder: PADNet, state: State) -> Views:
    views: Views = {}
    tasks = decoder.tasks

    def whole(released: str, ours: str, leaves: tuple[str, ...]) -> None:
        for leaf in leaves:
            if (x := state.get(f"{ours}.{leaf}")) is not None:  # gradients have no running statistics
                views[f"{released}.{leaf}"] = ([x], tuple(x.shape))

    def task_part(released: str, ours: str, leaves: tuple[str, ...], t: int) -> None:
        for leaf in leaves:
            if (x := state.get(f"{ours}.{leaf}")) is not None:
                part: Tensor = x.chunk(len(tasks))[t]
                views[f"{released}.{leaf}"] = ([part], tuple(part.shape))

    whole("backbone.1.last_layer.0", "fuse.conv", ("weight", "bias"))
    whole("backbone.1.last_layer.1", "fuse.norm", NORM)
    for t, task in enumerate(tasks):
        branches = {f"initial_task_prediction_heads.layers.{task}": "initial", f"heads.{task}": "refine"}
        for released, ours in branches.items():
            for block in (0, 1):
                for layer in (1, 2, 3):
                    task_part(f"{released}.{block}.conv{layer}", f"{ours}.{block}.conv{layer}", ("weight",), t)
                    task_part(f"{released}.{block}.bn{layer}", f"{ours}.{block}.bn{layer}", NORM, t)
                task_part(f"{released}.{block}.downsample.0", f"{ours}.{block}.shortcut.0", ("weight",), t)
                task_part(f"{released}.{block}.downsample.1", f"{ours}.{block}.shortcut.1", NORM, t)
        whole(f"initial_task_prediction_heads.conv_out.{task}", f"initial_predict.{task}", ("weight", "bias"))
        whole(f"heads.{task}.2", f"predict.{task}", ("weight", "bias"))
    if len(tasks) > 1:
        messages = state["distil.messages.weight"].chunk(len(tasks) * (len(tasks) - 1))  # (2 dim, dim, 3, 3) each
        for t, target in enumerate(tasks):
            sources = [a for a in range(len(tasks)) if a != t]
            for a, pair in zip(sources, decoder.distil.pairs[t].tolist(), strict=True):
                mask, values = messages[pair].chunk(2)
                released = f"multi_modal_distillation.self_attention.{target}.{tasks[a]}"
                views[f"{released}.attention.0.weight"] = ([mask], tuple(mask.shape))
                views[f"{released}.conv.weight"] = ([values], tuple(values.shape))
    return views
