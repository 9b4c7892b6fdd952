"""Checkpoints in the authors' naming, and ours: a strict two-way map.

The map is a table of views: for every released tensor, the piece (or pieces) of our tensors that hold its numbers.
Importing copies into the views, exporting reads from them, and the same table over gradients compares gradients.
"""

from mtmamba.models.adapters import atrc, invpt, mqtransformer, mti_net, pad_net
from mtmamba.models.adapters.decoder import decoder_views, load_released_decoder
from mtmamba.models.adapters.encoder import encoder_views, load_released_encoder, position_indices
from mtmamba.models.adapters.views import ReleasedError, export_views, strip_prefix

__all__ = [
    "ReleasedError",
    "atrc",
    "decoder_views",
    "encoder_views",
    "export_views",
    "invpt",
    "load_released_decoder",
    "load_released_encoder",
    "mqtransformer",
    "mti_net",
    "pad_net",
    "position_indices",
    "strip_prefix",
]
