"""The camera and dataset layer: captures in every format become a `Scene`. It knows nothing of training."""

from recon.datasets.cameras import Cameras
from recon.datasets.errors import InputError
from recon.datasets.scene import Points, Scene, View

__all__ = ["Cameras", "InputError", "Points", "Scene", "View"]
