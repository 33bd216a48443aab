"""How good a trained scene is: its pictures beside photos it has not seen, in figures and side by side.

The field's conventions: scores are of the float picture clamped to 0..1, not rounded to 8 bits (3DGS's training report,
gsplat, nerfstudio); a photo with alpha is put over the background that is rendered too; masked pixels do not count;
each view counts the same in the means.
"""

from __future__ import annotations

import contextlib
import math
import re
import statistics
import sys
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recon import metrics
from recon.colormap import INFERNO, colourise
from recon.datasets.cameras import Cameras
from recon.datasets.files import atomic_write
from recon.datasets.scene import View
from recon.exposure import Shot
from recon.gaussians import Gaussians
from recon.kernels.runtime import get_threads
from recon.model import Model
from recon.render import Colour, device_of, render_one, to_uint8
from recon.torch_threads import one_torch_thread

if TYPE_CHECKING:
    from rich.table import Table

T = TypeVar("T")

# Views that are rendered one right after the other, with nothing else running so that the time means something, before
# they are scored and drawn on all cores.
TOGETHER = 8
FIRST = 4  # how many times smaller the first picture of a radiance field is


@dataclass(frozen=True)
class ViewScores:
    """Scores of one view.

    Attributes:
        name: the view's.
        width, height: px.
        psnr: dB; infinite for equal pictures; NaN where the mask leaves nothing to compare.
        ssim: NaN in the same case, and for pictures smaller than 6 pixels.
        lpips: None where it could not be had.
        seconds: to render the picture, without the first view's one-off costs (compilation, caches).
    """

    name: str
    width: int
    height: int
    psnr: float
    ssim: float
    lpips: float | None
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """Scores of all held-out views, and their means. The means are None where there is nothing to average."""

    views: tuple[ViewScores, ...]

    @property
    def psnr(self) -> float | None:
        """Mean dB over the views."""
        return _mean([view.psnr for view in self.views])

    @property
    def ssim(self) -> float | None:
        return _mean([view.ssim for view in self.views])

    @property
    def lpips(self) -> float | None:
        """None if any view has none: a mean over other views than PSNR's could not be compared."""
        values = [view.lpips for view in self.views if view.lpips is not None]
        return _mean(values) if len(values) == len(self.views) else None

    @property
    def fps(self) -> float | None:
        """Pictures per second, from the median time."""
        return 1 / statistics.median(view.seconds for view in self.views) if self.views else None

    def to_json(self) -> dict[str, Any]:
        """Plain values for `json.dump`; what is not finite, which JSON cannot say, becomes null."""
        means = {"psnr": self.psnr, "ssim": self.ssim, "lpips": self.lpips, "fps": self.fps}
        views = [{key: _finite(value) for key, value in asdict(view).items()} for view in self.views]
        return {**{key: _finite(value) for key, value in means.items()}, "views": views}


@dataclass(frozen=True, eq=False)
class Comparison:
    """One view rendered and photographed.

    Attributes:
        number: place of the view among those evaluated, from 0.
        render, photo: [H,W,3] 0..1, over the same background.
        mask: [H,W,1], 0 where the photo does not count; None if all of it does.
    """

    number: int
    render: Tensor
    photo: Tensor
    mask: Tensor | None
    scores: ViewScores


def compare(
    model: Model,
    views: Sequence[View],
    *,
    background: Colour = (0.0, 0.0, 0.0),
    lpips: bool = True,
    shots: Sequence[Shot] | None = None,
) -> Iterator[Comparison]:
    """Render and score the views, `TOGETHER` at a time; see `evaluate`."""
    return _each(model, views, background, lpips, shots, lambda comparison: comparison)


def evaluate(
    model: Model,
    views: Sequence[View],
    *,
    background: Colour = (0.0, 0.0, 0.0),
    lpips: bool = True,
    shots: Sequence[Shot] | None = None,
    comparisons: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score `model` on `views`, which it should not have been trained on.

    Args:
        views: may be empty, as for a capture too small to hold photos out; then there are no means.
        background: behind the scene and behind photos that have alpha, 0..1.
        lpips: whether to try LPIPS.
        shots: how the cameras exposed the views; None: as the scene is.
        comparisons: folder for side-by-side pictures (see `save_comparison`); None makes none.
        progress: told after each view how many are done, and how many there are.
    """

    def finish(comparison: Comparison) -> ViewScores:
        if comparisons is not None:
            save_comparison(comparison, comparisons)
        return comparison.scores

    scores: list[ViewScores] = []
    for one in _each(model, views, background, lpips, shots, finish):
        scores.append(one)
        if progress is not None:
            progress(len(scores), len(views))
    return Evaluation(tuple(scores))


def _each(
    model: Model,
    views: Sequence[View],
    background: Colour,
    lpips: bool,
    shots: Sequence[Shot] | None,
    finish: Callable[[Comparison], T],
) -> Iterator[T]:
    """What `finish` makes of each view's comparison, in order: first some are rendered, then all the rest is done."""
    device = device_of(model)

    @torch.no_grad()
    def finished(number: int, render: Tensor, seconds: float) -> T:
        return finish(_compared(views[number], render, seconds, number, background, lpips))

    with ThreadPoolExecutor(get_threads()) as pool:
        for first in range(0, len(views), TOGETHER):
            numbers = range(first, min(len(views), first + TOGETHER))
            # Torch's threads would spin on after the scores and count as time of the next rendering.
            with torch.no_grad(), one_torch_thread(device):
                if first == 0:  # so that what a first picture takes beside is not counted
                    render_one(model, _first_camera(model, views[0].camera), background=background)
                pictures = [
                    _timed_render(model, views[number], background, shots[number] if shots else None)
                    for number in numbers
                ]
                tasks = [pool.submit(finished, n, *pictures[n - first]) for n in numbers]
                wait(tasks)
            yield from (task.result() for task in tasks)


def _first_camera(model: Model, camera: Cameras) -> Cameras:
    """Of the picture that is made before any is timed: a small one where a whole one takes long."""
    if isinstance(model, Gaussians):
        return camera
    return camera.resized(max(1, camera.width // FIRST), max(1, camera.height // FIRST))


def _compared(view: View, render: Tensor, seconds: float, number: int, background: Colour, lpips: bool) -> Comparison:
    photo = over_background(view.load().to(render), render.new_tensor(background))
    mask = None if view.mask is None else view.mask.load().to(render)
    enough = min(render.shape[:2]) >= metrics.SSIM_MIN
    scores = ViewScores(
        name=view.name,
        width=view.camera.width,
        height=view.camera.height,
        psnr=metrics.psnr(render, photo, mask=mask),
        ssim=metrics.ssim(render, photo, mask=mask) if enough else math.nan,
        lpips=metrics.lpips(render, photo, mask=mask) if lpips else None,
        seconds=seconds,
    )
    return Comparison(number, render, photo, mask, scores)


def _timed_render(model: Model, view: View, background: Colour, shot: Shot | None) -> tuple[Tensor, float]:
    """A finished picture [H,W,3], as exposed, and the seconds it took to render."""
    began = time.perf_counter()
    out = render_one(model, view.camera, background=background)
    if out.rgb.is_cuda:
        torch.cuda.synchronize(out.rgb.device)
    seconds = time.perf_counter() - began
    picture = out.rgb[0].float()
    return (picture if shot is None else shot.exposed(picture)).clamp(0, 1), seconds


def over_background(image: Tensor, background: Tensor) -> Tensor:
    """[H,W,3] from an image [H,W,3|4] with straight alpha, over the colour `background` [3]."""
    colour, alpha = image[..., :3], image[..., 3:]
    return colour * alpha + background * (1 - alpha) if image.shape[-1] == 4 else colour


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else None


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


# On the terminal


def table(evaluation: Evaluation) -> Table:
    """One line for each view and one for the means."""
    from rich.table import Table

    result = Table("View", title="Held-out views")
    for heading in ("PSNR dB", "SSIM", "LPIPS", "ms"):
        result.add_column(heading, justify="right")
    for view in evaluation.views:
        result.add_row(view.name, *_figures(view.psnr, view.ssim, view.lpips, view.seconds))
    if not evaluation.views:
        result.caption = "No photo was held out, so there is nothing to compare with."
        return result
    result.add_section()
    assert evaluation.fps is not None
    means = _figures(evaluation.psnr, evaluation.ssim, evaluation.lpips, 1 / evaluation.fps)
    result.add_row(f"mean of {len(evaluation.views)}", *means, style="bold")
    return result


def _figures(psnr: float | None, ssim: float | None, lpips: float | None, seconds: float) -> list[str]:
    values = ((psnr, ".2f"), (ssim, ".4f"), (lpips, ".4f"), (1000 * seconds, ".1f"))
    return ["n/a" if value is None or math.isnan(value) else format(value, form) for value, form in values]


# Side by side

ERROR_RANGE = 0.2  # mean absolute error of the three channels that is shown brightest
GAP = 4  # px between panels
CAPTION = 20  # px above them


def save_comparison(comparison: Comparison, folder: Path | str) -> Path:
    """Write render | photo | error to a PNG in `folder`, named by the view's number and name: "003_images_0001.png"."""
    from PIL import Image

    path = comparison_file(folder, comparison.number, comparison.scores.name)
    with atomic_write(path) as file:  # of noisy pictures, run lengths are as short as zlib's best, in half the time
        Image.fromarray(draw_comparison(comparison)).save(
            file, format="PNG", compress_level=1, compress_type=zlib.Z_RLE
        )
    return path


def comparison_file(folder: Path | str, number: int, name: str) -> Path:
    """Where `save_comparison` writes the picture of a view, by its number and name."""
    return Path(folder) / f"{number:03d}_{file_name(name)}.png"


def panels_of(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The render and the photo, uint8 [H,W,3] each, of a picture that `save_comparison` wrote."""
    from PIL import Image

    sheet = np.asarray(Image.open(path).convert("RGB"))[CAPTION:]
    width = (sheet.shape[1] - 2 * GAP) // 3
    return sheet[:, :width], sheet[:, width + GAP : 2 * width + GAP]


def save_comparisons(
    model: Model, views: Sequence[View], folder: Path | str, *, background: Colour = (0.0, 0.0, 0.0)
) -> list[Path]:
    """`save_comparison` for each view; `evaluate` makes scores and pictures in one go."""
    return [save_comparison(c, folder) for c in compare(model, views, background=background, lpips=False)]


def draw_comparison(comparison: Comparison) -> NDArray[np.uint8]:
    """Render, photo and error (see `draw_error`) side by side under captions: uint8 [H + caption, 3 W + gaps, 3]."""
    from PIL import Image, ImageDraw, ImageFont

    mask = None if comparison.mask is None else comparison.mask[..., 0] != 0
    error = draw_error(comparison.render, comparison.photo, mask)
    panels = {
        f"render  {_label(comparison.scores)}": to_uint8(comparison.render),
        "photo": to_uint8(comparison.photo),
        f"mean abs. error, 0 to {ERROR_RANGE}": error,
    }
    height, width = error.shape[:2]
    sheet = Image.new("RGB", (3 * width + 2 * GAP, height + CAPTION), "white")
    font = ImageFont.load_default(size=12)
    for number, (caption, panel) in enumerate(panels.items()):
        strip = Image.new("RGB", (width, CAPTION), "white")  # cuts a caption that is too long for its panel
        ImageDraw.Draw(strip).text((3, 3), caption, fill="black", font=font)
        sheet.paste(strip, (number * (width + GAP), 0))
        sheet.paste(Image.fromarray(panel), (number * (width + GAP), CAPTION))
    return np.asarray(sheet)


def draw_error(render: Tensor, photo: Tensor, counts: Tensor | None = None) -> NDArray[np.uint8]:
    """The error of each pixel as uint8 [H,W,3], from pictures [H,W,3] 0..1.

    It is the mean absolute difference of the channels in the inferno map: black is 0, pale yellow 0.2 and more. Pixels
    where `counts` [H,W] is false are black.
    """
    error = (render - photo).abs().mean(dim=-1)
    if counts is not None:
        error = error * counts
    return to_uint8(torch.from_numpy(colourise(error.cpu().numpy() / ERROR_RANGE, INFERNO)))


def _label(scores: ViewScores) -> str:
    psnr, ssim, *_ = _figures(scores.psnr, scores.ssim, None, 0)
    return f"{psnr} dB  SSIM {ssim}"


def file_name(view_name: str) -> str:
    """What of a view's name ("images/0001.jpg") can stand in a file name on every system, without its suffix."""
    return re.sub(r"[^\w.-]", "_", re.sub(r"\.[A-Za-z]+$", "", view_name))[-60:]


# Sizes


def model_bytes(model: Model) -> int:
    """Bytes of all parameters in memory; a file with full precision has about as many."""
    return sum(value.numel() * value.element_size() for value in model.state_dict().values())


def peak_memory_bytes() -> int:
    """The most physical memory this process has held so far."""
    if sys.platform == "win32":
        import psutil

        return psutil.Process().memory_info().peak_wset
    # Linux's ru_maxrss lives on through exec: started by a large program, a small one would report that one's size.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, kilobytes elsewhere
