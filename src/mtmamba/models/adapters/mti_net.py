"""MTI-Net's names in its authors' checkpoints, whose ``scale_0`` is the finest."""

from mtmamba.models.adapters.conv import ConvViews
from mtmamba.models.adapters.decoder import decoder_views
from mtmamba.models.adapters.views import State, Views
from mtmamba.models.decoders.conv import Distil
from mtmamba.models.decoders.mti_net import MTINet


@decoder_views.register
def _(decoder: MTINet, state: State) -> Views:
    found = ConvViews(decoder.tasks, state)
    for s, distil in enumerate(decoder.distil):
        assert isinstance(distil, Distil)
        for t, task in enumerate(decoder.tasks):
            for block in (0, 1):
                found.add_block(f"scale_{s}.refinement.{task}.{block}", f"initial.{s}.{block}", t)
            found.add(f"scale_{s}.decoders.{task}", f"initial_predict.{s}.{task}")
            if s > 0:
                for released, ours in (("squeeze.0", "reduce"), ("squeeze.2", "expand")):
                    found.add(f"fpm_scale_{s}.se.{task}.{released}", f"propagate.{s - 1}.se.{ours}", t, linear=True)
        if s > 0:
            found.add_block(f"fpm_scale_{s}.non_linear.0", f"propagate.{s - 1}.mask.0")
            found.add_block(f"fpm_scale_{s}.non_linear.1", f"propagate.{s - 1}.mask.1")
            found.add(f"fpm_scale_{s}.non_linear.2", f"propagate.{s - 1}.mask.2")
            found.add_block(f"fpm_scale_{s}.dimensionality_reduction", f"propagate.{s - 1}.share")
        found.add_distil(f"distillation_scale_{s}", f"distil.{s}", distil)
    for t, task in enumerate(decoder.tasks):
        found.add(f"heads.{task}.last_layer.0", "fuse.conv", t)
        found.add(f"heads.{task}.last_layer.1", "fuse.norm", t)
        found.add(f"heads.{task}.last_layer.3", f"predict.{task}")
    return found.views
