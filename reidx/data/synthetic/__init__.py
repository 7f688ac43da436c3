"""Synthetic domains: rendered pedestrians for demos and tests, with a real gap between source and target.

`render_domain` writes a benchmark with the file names of Market-1501; `render_person` draws one crop;
`colour_histogram` is the control: it must score badly, because cameras differ in colour and people in more than colour.
"""

from reidx.data.synthetic.appearance import WARDROBES, Appearance, Fabric, sample_appearance
from reidx.data.synthetic.camera import Camera, render_person, sample_camera
from reidx.data.synthetic.control import colour_histogram
from reidx.data.synthetic.domain import render_domain
from reidx.data.synthetic.figure import Pose
from reidx.data.synthetic.person import draw_person

__all__ = [
    "WARDROBES",
    "Appearance",
    "Camera",
    "Fabric",
    "Pose",
    "colour_histogram",
    "draw_person",
    "render_domain",
    "render_person",
    "sample_appearance",
    "sample_camera",
]
