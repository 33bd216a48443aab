"""How close a rendered picture is to the photo: PSNR, SSIM and LPIPS, of single images [H,W,3] with values in 0..1.

Values a little outside 0..1 are clamped first, as a screen or an image file would do.
"""

from __future__ import annotations

import functools
import hashlib
import http.client
import importlib.util
import logging
import math
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recon.datasets.files import atomic_write
from recon.similarity import ssim_strips

log = logging.getLogger(__name__)

ALEXNET = "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth"  # torchvision's name for LPIPS's network

STALL_S = 10.0  # a download that sends nothing for this long is given up
DOWNLOAD_S = 60.0  # and so is one that will plainly not finish within this time

SSIM_MIN = 6  # pixels each way; what mirroring by half the window needs
LPIPS_MIN = 31  # pixels each way; what the pooling layers of AlexNet leave at least one value of

_one_lpips = threading.Lock()  # the network is fetched once, and keeps sums while it runs


def psnr(image: Tensor, target: Tensor, *, mask: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB, -10 log10(mean squared error), over all channels.

    Args:
        image, target: [H,W,3], 0..1.
        mask: [H,W,1]; only pixels where it is not 0 count.

    Returns:
        Infinity for equal pictures, NaN if the mask leaves nothing to compare.
    """
    _check(image, target, mask)
    squares = (image.clamp(0, 1) - target.clamp(0, 1)).double().square()
    if mask is not None:
        squares = squares[mask[..., 0] != 0]
    error = squares.mean().item()
    return math.inf if error == 0 else -10 * math.log10(error)


def ssim(image: Tensor, target: Tensor, *, mask: Tensor | None = None) -> float:
    """Mean structural similarity (Wang et al. 2004) as torchmetrics has it: 11x11 Gaussian window of deviation 1.5.

    Both pictures are mirrored at their borders (without repeating the border pixel), and the mean is over all pixels,
    the border included, and all channels. Others crop the border (scikit-image) or pad with black (3DGS, and our
    training loss): on photos of 480 pixels that gives about 0.001 and 0.01 more.

    Args:
        image, target: [H,W,3], 0..1, at least `SSIM_MIN` pixels each way.
        mask: [H,W,1]; where it is 0 both pictures are made black, and the mean is over the other pixels.

    Returns:
        NaN if the mask leaves nothing to compare.
    """
    _check(image, target, mask)
    if min(image.shape[:2]) < SSIM_MIN:
        raise ValueError(f"SSIM needs {SSIM_MIN}x{SSIM_MIN} pixels or more, not {image.shape[1]}x{image.shape[0]}")
    total, count, top = 0.0, 0, 0
    x, y = _planar_pair(image, target, mask)
    for values in ssim_strips(x[0], y[0]):
        rows = values.shape[1]
        if mask is not None:
            values = values[:, mask[top : top + rows, :, 0] != 0]
        total += values.double().sum().item()
        count += values.numel()
        top += rows
    return total / count if count else math.nan


def lpips(image: Tensor, target: Tensor, *, mask: Tensor | None = None) -> float | None:
    """Learned perceptual distance (Zhang et al. 2018, AlexNet, version 0.1) through torchmetrics; lower is closer.

    Needs torchvision (the extra `lpips`) and the weights of its AlexNet, 233 MB, which are looked for where
    torchvision keeps them and fetched once if they are not there.

    Args:
        image, target: [H,W,3], 0..1.
        mask: [H,W,1]; where it is 0 both pictures are made black; the mean is over all pixels all the same.

    Returns:
        None where torchvision or the weights cannot be had (why is logged, once), and for images of less than
        `LPIPS_MIN` pixels either way.
    """
    _check(image, target, mask)
    if min(image.shape[:2]) < LPIPS_MIN:
        return None
    with _one_lpips:
        network = _lpips_network(image.device)
        if network is None:
            return None
        with torch.no_grad():
            return network(*_planar_pair(image, target, mask)).item()


def _check(image: Tensor, target: Tensor, mask: Tensor | None) -> None:
    if image.ndim != 3 or image.shape[-1] != 3 or image.shape != target.shape:
        raise ValueError(f"image {tuple(image.shape)} and target {tuple(target.shape)} are not [H,W,3] each")
    if mask is not None and mask.shape != (*image.shape[:2], 1):
        raise ValueError(f"mask {tuple(mask.shape)} does not fit image {tuple(image.shape)}: not [H,W,1]")


def _planar_pair(image: Tensor, target: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both pictures as [1,3,H,W], black where the mask is 0."""
    x, y = image.detach().clamp(0, 1), target.detach().clamp(0, 1)
    if mask is not None:
        black = x.new_zeros(())
        x, y = torch.where(mask != 0, x, black), torch.where(mask != 0, y, black)
    return x.permute(2, 0, 1)[None], y.permute(2, 0, 1)[None]


@functools.lru_cache(maxsize=2)
def _lpips_network(device: torch.device) -> Any | None:
    """The LPIPS network on a device, or None; asked for once per process, so that a failure costs its time once."""
    if importlib.util.find_spec("torchvision") is None:
        log.info("no LPIPS: torchvision is not installed")
        return None
    path = Path(torch.hub.get_dir()) / "checkpoints" / ALEXNET.rsplit("/", 1)[1]
    if not path.exists():
        log.info("fetching the weights of LPIPS from %s", ALEXNET)
        try:
            _download(ALEXNET, path)
        except (OSError, http.client.HTTPException) as error:  # no network, a refusal, a stall, a full disk, a bad file
            log.warning("no LPIPS: %s could not be fetched (%s); put it at %s by hand", ALEXNET, error, path)
            return None
    try:
        import torchvision  # takes seconds, so it comes last
    except (ImportError, RuntimeError) as error:  # built for another torch
        log.warning("no LPIPS: torchvision cannot be imported (%s)", error)
        return None
    if torchvision.models.AlexNet_Weights.DEFAULT.url != ALEXNET:
        log.warning("no LPIPS: this torchvision has other weights than %s", ALEXNET)
        return None
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
    except (ImportError, RuntimeError) as error:  # a torchvision that was built for another torch breaks it too
        log.warning("no LPIPS: torchmetrics cannot be imported (%s)", " ".join(str(error).split()))
        return None

    return LearnedPerceptualImagePatchSimilarity(net_type="alex", normalize=True).to(device)


def _download(url: str, path: Path) -> None:
    """Fetch a file named name-HASH.ext, where HASH begins its SHA-256 (torch.hub's convention).

    torch.hub would do it without any time limit. Raises OSError (which includes URLError and TimeoutError) or
    HTTPException if the server cannot be reached, stalls, is too slow, or the content is not what the name promises.
    """
    digest = hashlib.sha256()
    began = time.monotonic()
    with urllib.request.urlopen(url, timeout=STALL_S) as answer, atomic_write(path) as file:
        total, received = int(answer.headers.get("Content-Length", 0)), 0
        while block := answer.read1(1 << 18):
            file.write(block)
            digest.update(block)
            received += len(block)
            spent = time.monotonic() - began
            if spent > STALL_S and spent * max(total / received, 1) > DOWNLOAD_S:
                raise TimeoutError(f"only {received / spent / 1e6:.1f} MB/s")
        if not digest.hexdigest().startswith(path.stem.rsplit("-", 1)[1]):
            raise OSError(f"{received} bytes with an unexpected checksum")
