"""Scan -> views (V, B, C, *S) with the boxes they share."""

from headwater.views.batch import Sample, Views, draw_sample, make_views, show
from headwater.views.crops import Pairs, draw_pairs, take
from headwater.views.geometry import Geometry, cut, draw_geometry
from headwater.views.intensity import IntensityParameters, apply_intensity, draw_intensity
from headwater.views.masks import draw_masks
from headwater.views.spatial import Placement, draw_placements, part, place, to_scan, to_view

__all__ = [
    "Geometry",
    "IntensityParameters",
    "Pairs",
    "Placement",
    "Sample",
    "Views",
    "apply_intensity",
    "cut",
    "draw_geometry",
    "draw_intensity",
    "draw_masks",
    "draw_pairs",
    "draw_placements",
    "draw_sample",
    "make_views",
    "part",
    "place",
    "show",
    "take",
    "to_scan",
    "to_view",
]
