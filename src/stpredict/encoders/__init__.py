"""Encoders: from image tiles to feature vectors."""

from stpredict.encoders._color_texture_names import color_texture_names
from stpredict.encoders._encoder import Encoder
from stpredict.encoders._registry import EncoderInfo, get_encoder, list_encoders, register
from stpredict.encoders._summarize_nuclei import nuclei_names

__all__ = ["Encoder", "EncoderInfo", "color_texture_names", "get_encoder", "list_encoders", "nuclei_names", "register"]
