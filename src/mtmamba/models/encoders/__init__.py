"""Encoders, a file each: images to four normed channels-last maps at strides 4, 8, 16 and 32."""

from mtmamba.models.encoders.encoder import Encoder, StagedEncoder, by_depth, freeze, pretrained_parameters
from mtmamba.models.encoders.swin import SwinEncoder
from mtmamba.models.encoders.timm import TimmEncoder

__all__ = ["Encoder", "StagedEncoder", "SwinEncoder", "TimmEncoder", "by_depth", "freeze", "pretrained_parameters"]
