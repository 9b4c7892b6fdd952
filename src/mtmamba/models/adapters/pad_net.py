"""PAD-Net's names in the survey's checkpoints."""

from mtmamba.models.adapters.conv import ConvViews
from mtmamba.models.adapters.decoder import decoder_views
from mtmamba.models.adapters.views import State, Views
from mtmamba.models.decoders.pad_net import PADNet


@decoder_views.register
def _(decoder: PADNet, state: State) -> Views:
    found = ConvViews(decoder.tasks, state)
    found.add("backbone.1.last_layer.0", "fuse.conv")
    found.add("backbone.1.last_layer.1", "fuse.norm")
    for t, task in enumerate(decoder.tasks):
        for block in (0, 1):
            found.add_block(f"initial_task_prediction_heads.layers.{task}.{block}", f"initial.{block}", t)
            found.add_block(f"heads.{task}.{block}", f"refine.{block}", t)
        found.add(f"initial_task_prediction_heads.conv_out.{task}", f"initial_predict.{task}")
        found.add(f"heads.{task}.2", f"predict.{task}")
    found.add_distil("multi_modal_distillation", "distil", decoder.distil)
    return found.views
