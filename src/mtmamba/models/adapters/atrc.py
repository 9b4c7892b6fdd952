"""ATRC's names in its authors' checkpoints."""

from mtmamba.models.adapters.conv import ConvViews
from mtmamba.models.adapters.decoder import decoder_views
from mtmamba.models.adapters.views import ReleasedError, State, Views
from mtmamba.models.decoders.atrc import ATRC


@decoder_views.register
def _(decoder: ATRC, state: State) -> Views:
    if any(name.startswith("neck.") for name in state):
        raise ReleasedError("Expected ATRC without a neck, which the released one has not: choose decoder.neck=null.")
    found = ConvViews(decoder.tasks, state, counted=True)

    def layer(released: str, ours: str, first: int = 0, task: int | None = None) -> None:
        found.add(f"{released}.conv", f"{ours}.{first}", task)
        found.add(f"{released}.bn", f"{ours}.{first + 1}", task)

    labels = ConvViews(list(decoder.label_predict), state, counted=True)
    for t, task in enumerate(decoder.tasks):
        layer(f"bottleneck.{task}", "features", task=t)
        layer(f"atrc_module.out_proj.{task}", f"relate.{task}.project")
        layer(f"atrc_module.bottleneck.{task}.0", f"relate.{task}.mix")
        found.add(f"final_logits.{task}", f"predict.{task}")
        for source in decoder.tasks:
            released, ours = f"atrc_module.cp_blocks.{task}.{source}", f"relate.{task}.contexts.{source}"
            for name in ("query", "key"):
                layer(f"{released}.{name}_project.0", f"{ours}.{name}")
                layer(f"{released}.{name}_project.1", f"{ours}.{name}", first=3)
            layer(f"{released}.value_project", f"{ours}.value")
    for t, task in enumerate(decoder.label_predict):
        labels.add(f"aux_conv.{task}.conv", "label_features.0", t)
        labels.add(f"aux_conv.{task}.bn", "label_features.1", t)
        labels.add(f"aux_logits.{task}", f"label_predict.{task}")
    return found.views | labels.views
