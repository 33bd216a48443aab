"""What nerfstudio loads for `recon-data`: any capture that is read here, for any of its methods.

The entry point of the methods is in another module, since nerfstudio loads this one while it makes what that one needs.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from nerfstudio.data.dataparsers.base_dataparser import DataParser, DataParserConfig, DataparserOutputs
from nerfstudio.plugins.registry_dataparser import DataParserSpecification

from recon import opening
from recon.datasets.errors import InputError
from recon.datasets.images import ColourFile, save_image
from recon.datasets.scene import Scene, View
from recon.datasets.writing import Writing, write_photo
from recon.nerfstudio.cameras import BACKGROUND, theirs_of, transform_and_scale
from recon.options import Options

READABLE = (".png", ".jpg", ".jpeg")


@dataclass
class CaptureConfig(DataParserConfig):
    """A capture in any format that `recon train` reads"""

    _target: type = field(default_factory=lambda: CaptureParser)
    """target class to instantiate"""
    downscale: int | None = None
    """how many times smaller than the originals the photos are to be; by default as recon train chooses it"""
    test_every: int = 8
    """every how many photos one is held out, unless the capture says which"""


class CaptureParser(DataParser):
    """Views of a capture as nerfstudio wants them: files. Those that are not as they are to be seen (lens distortion,
    size, masks) are written to a temporary folder."""

    config: CaptureConfig

    def __init__(self, config: CaptureConfig) -> None:
        super().__init__(config)
        self._folder = tempfile.TemporaryDirectory(prefix="recon-nerfstudio-")
        self._scene: Scene | None = None

    def _generate_dataparser_outputs(self, split: str = "train", **kwargs: Any) -> DataparserOutputs:
        try:
            if self._scene is None:
                wishes = Options(
                    str(self.config.data), downscale=self.config.downscale, test_every=self.config.test_every
                )
                self._scene, _ = opening.open_scene(
                    wishes, torch.device("cuda" if torch.cuda.is_available() else "cpu")
                )
            return self._outputs(self._scene, split)
        except InputError as error:  # the command would show where in the program it was found
            raise SystemExit(str(error)) from None

    def _outputs(self, scene: Scene, split: str) -> DataparserOutputs:
        numbers = scene.train if split == "train" or not scene.test else scene.test
        views = [scene.views[number] for number in numbers]
        transform, scale = transform_and_scale(scene.source_from_world)
        metadata: dict[str, Any] = {BACKGROUND: scene.background}
        if scene.points is not None:
            metadata["points3D_xyz"] = scene.points.xyz.float()
            metadata["points3D_rgb"] = (scene.points.rgb * 255).round().clamp(0, 255).to(torch.uint8)
        masked = any(view.mask is not None for view in scene.views)
        return DataparserOutputs(
            image_filenames=[self._photo(view, number) for view, number in zip(views, numbers, strict=True)],
            cameras=theirs_of([view.camera for view in views]),
            mask_filenames=[self._mask(view, n) for view, n in zip(views, numbers, strict=True)] if masked else None,
            metadata=metadata,
            dataparser_transform=transform,
            dataparser_scale=scale,
        )

    def _photo(self, view: View, number: int) -> Path:
        usual = isinstance(view.image, ColourFile) and view.image.kind == "usual"
        return write_photo(
            view, Path(self._folder.name) / f"{number:05d}", Writing(link=True), kept=READABLE if usual else ()
        )

    def _mask(self, view: View, number: int) -> Path:
        path = Path(self._folder.name) / "masks" / f"{number:05d}.png"
        mask = torch.ones(view.camera.height, view.camera.width, 1) if view.mask is None else view.mask.load()
        save_image(path, mask)
        return path


capture = DataParserSpecification(
    CaptureConfig(), "Any capture that recon reads: COLMAP, Metashape, Polycam and others"
)
