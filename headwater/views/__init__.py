"""Scan -> views (V, B, C, *S) with the boxes they share."""

from headwater.views.batch import Views, make_views
from headwater.views.crops import Pairs, draw_pairs, take
from headwater.views.intensity import IntensityParameters, apply_intensity, draw_intensity
from headwater.views.masks import draw_masks
from headwater.views.spatial import Placement, draw_placements, place

__all__ = [
    "IntensityParameters",
    "Pairs",
    "Placement",
    "Views",
    "apply_intensity",
    "draw_intensity",
    "draw_masks",
    "draw_pairs",
    "draw_placements",
    "make_views",
    "place",
    "take",
]
