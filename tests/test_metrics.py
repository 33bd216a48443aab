import hashlib
import http.server
import importlib.machinery
import importlib.util
import math
import sys
import threading
import time
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recon import metrics


def pictures(height: int, width: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    target = torch.rand(height, width, 3, generator=generator)
    return (target + 0.2 * torch.randn(target.shape, generator=generator)).clamp(0, 1), target


# ------------------------------------------------------------------------------------------ PSNR


def test_psnr_by_hand() -> None:
    target = torch.full((4, 5, 3), 0.5)
    assert metrics.psnr(target + 0.1, target) == pytest.approx(20, abs=1e-5)
    one_channel_off = target.clone()
    one_channel_off[..., 1] += 0.25  # mean squared error 1/48
    assert metrics.psnr(one_channel_off, target) == pytest.approx(10 * math.log10(48), abs=1e-5)
    assert metrics.psnr(torch.zeros(2, 2, 3), torch.ones(2, 2, 3)) == 0
    assert metrics.psnr(target, target) == math.inf


def test_psnr_is_torchmetrics_own() -> None:
    from torchmetrics.functional.image import peak_signal_noise_ratio

    image, target = pictures(13, 17)
    wanted = peak_signal_noise_ratio(image, target, data_range=1.0).item()
    assert metrics.psnr(image, target) == pytest.approx(wanted, abs=1e-4)


def test_psnr_counts_only_what_the_mask_leaves() -> None:
    image, target = torch.full((4, 6, 3), 0.5), torch.full((4, 6, 3), 0.5)
    image[:, :3] += 0.01
    image[:, 3:] = math.nan
    mask = torch.zeros(4, 6, 1)
    mask[:, :3] = 1
    assert metrics.psnr(image, target, mask=mask) == pytest.approx(40, abs=1e-3)
    assert metrics.psnr(image, target, mask=mask.bool()) == metrics.psnr(image, target, mask=mask)
    assert math.isnan(metrics.psnr(image, target, mask=torch.zeros(4, 6, 1)))


def test_colours_out_of_range_are_clamped() -> None:
    image, target = pictures(12, 14)
    wild = torch.where(image > 0.7, 7.0, torch.where(image < 0.3, -2.0, image))
    assert metrics.psnr(wild, target) == metrics.psnr(wild.clamp(0, 1), target)
    assert metrics.ssim(wild, target) == metrics.ssim(wild.clamp(0, 1), target)


# ------------------------------------------------------------------------------------------ SSIM


def slow_ssim_map(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """SSIM of planes [H,W] by the formula of the paper, in float64, with mirrored borders."""
    x, y = np.pad(x, 5, mode="reflect"), np.pad(y, 5, mode="reflect")
    offsets = np.arange(-5, 6)
    window = np.exp(-(offsets[:, None] ** 2 + offsets**2) / (2 * 1.5**2))
    window /= window.sum()
    result = np.empty((x.shape[0] - 10, x.shape[1] - 10))
    for row, column in np.ndindex(result.shape):
        a, b = x[row : row + 11, column : column + 11], y[row : row + 11, column : column + 11]
        mean_a, mean_b = (window * a).sum(), (window * b).sum()
        variance_a, variance_b = (window * (a - mean_a) ** 2).sum(), (window * (b - mean_b) ** 2).sum()
        covariance = (window * (a - mean_a) * (b - mean_b)).sum()
        luminance = (2 * mean_a * mean_b + 1e-4) / (mean_a**2 + mean_b**2 + 1e-4)
        result[row, column] = luminance * (2 * covariance + 9e-4) / (variance_a + variance_b + 9e-4)
    return result


@pytest.mark.parametrize(("height", "width"), [(6, 6), (20, 13), (31, 40)])
def test_ssim_is_the_papers(height: int, width: int) -> None:
    image, target = pictures(height, width)
    planes = [slow_ssim_map(image[..., i].double().numpy(), target[..., i].double().numpy()) for i in range(3)]
    assert metrics.ssim(image, target) == pytest.approx(np.mean(planes), abs=1e-5)


@pytest.mark.parametrize(("height", "width"), [(11, 40), (64, 64), (70, 33), (150, 97)])
def test_ssim_is_torchmetrics_own(height: int, width: int) -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    image, target = (picture.double() for picture in pictures(height, width))
    x, y = (picture.permute(2, 0, 1)[None] for picture in (image, target))
    _, values = structural_similarity_index_measure(x, y, data_range=1.0, return_full_image=True)
    assert metrics.ssim(image, target) == pytest.approx(values.mean().item(), abs=1e-9)
    assert metrics.ssim(image.float(), target.float()) == pytest.approx(values.mean().item(), abs=2e-6)


def test_ssim_of_equal_and_of_flat_pictures() -> None:
    image, _ = pictures(15, 15)
    assert metrics.ssim(image, image) == pytest.approx(1, abs=1e-6)
    dark, light = torch.full((10, 10, 3), 0.2), torch.full((10, 10, 3), 0.6)  # all that differs is the luminance
    assert metrics.ssim(dark, light) == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), abs=1e-3)


def test_ssim_counts_only_what_the_mask_leaves() -> None:
    image, target = pictures(24, 30)
    mask = torch.zeros(24, 30, 1)
    mask[4:20, 5:18] = 1
    black_image, black_target = (image * mask).double().numpy(), (target * mask).double().numpy()
    planes = [slow_ssim_map(black_image[..., i], black_target[..., i])[4:20, 5:18] for i in range(3)]
    image[mask[..., 0] == 0] = math.nan
    assert metrics.ssim(image, target, mask=mask) == pytest.approx(np.mean(planes), abs=1e-5)
    assert math.isnan(metrics.ssim(image, target, mask=torch.zeros(24, 30, 1)))


def test_ssim_needs_a_few_pixels() -> None:
    with pytest.raises(ValueError, match="not 9x5"):
        metrics.ssim(torch.zeros(5, 9, 3), torch.zeros(5, 9, 3))


@pytest.mark.parametrize("metric", [metrics.psnr, metrics.ssim, metrics.lpips])
def test_wrong_shapes_are_refused(metric: Any) -> None:
    good = torch.zeros(8, 9, 3)
    for image, target, mask in [
        (good, good[:7], None),
        (good[None], good[None], None),
        (good[..., :1], good[..., :1], None),
        (good, good, torch.ones(8, 9)),
        (good, good, torch.ones(9, 8, 1)),
    ]:
        with pytest.raises(ValueError, match=r"\[H,W,"):
            metric(image, target, mask=mask)


# ------------------------------------------------------------------------------------------ LPIPS


@pytest.fixture(autouse=True)
def _forget_networks() -> Iterator[None]:
    metrics._lpips_network.cache_clear()
    yield
    metrics._lpips_network.cache_clear()


class AlexNet(nn.Module):
    """torchvision's layers, as far as LPIPS looks at them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(
            *(nn.Conv2d(3, 64, 11, stride=4, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(64, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(3, 2)),
            *(nn.Conv2d(192, 384, 3, padding=1), nn.ReLU(), nn.Conv2d(384, 256, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(256, 256, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2)),
        )


def fake_torchvision(monkeypatch: pytest.MonkeyPatch, url: str, hub: Path) -> None:
    """A torchvision whose AlexNet has random weights: figures mean nothing, but the whole path is walked."""
    importlib.import_module("torchmetrics.functional.image.lpips")  # looks for the real one when it is first loaded
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        monkeypatch.delitem(sys.modules, name)
    weights = types.SimpleNamespace(DEFAULT=types.SimpleNamespace(url=url))
    module: Any = types.ModuleType("torchvision")
    module.__spec__ = importlib.machinery.ModuleSpec("torchvision", None)
    module.models = types.SimpleNamespace(AlexNet_Weights=weights, alexnet=lambda weights: AlexNet())
    monkeypatch.setitem(sys.modules, "torchvision", module)
    monkeypatch.setattr(metrics, "ALEXNET", url)
    monkeypatch.setattr("torchmetrics.functional.image.lpips._TORCHVISION_AVAILABLE", True)
    monkeypatch.setattr("torchmetrics.image.lpip._TORCHVISION_AVAILABLE", True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub))


def test_no_lpips_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert metrics.lpips(*pictures(40, 40)) is None


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is not None, reason="torchvision is installed")
def test_no_lpips_here() -> None:
    assert metrics.lpips(*pictures(40, 40)) is None


def test_no_lpips_where_torchmetrics_and_torchvision_do_not_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fake_torchvision(monkeypatch, "http://nowhere/alexnet-0123.pth", tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-0123.pth").touch()
    monkeypatch.setitem(sys.modules, "torchmetrics.image.lpip", None)
    assert metrics.lpips(*pictures(40, 40)) is None
    assert "torchmetrics cannot be imported" in caplog.text
    assert metrics.ssim(*pictures(40, 40)) < 1


def test_no_lpips_without_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def refuse(url: str, path: Path) -> None:
        tries.append(url)
        raise TimeoutError("timed out")

    import torchmetrics.image.lpip  # noqa: F401

    fake_torchvision(monkeypatch, "http://localhost/alexnet-0123.pth", tmp_path)
    monkeypatch.setattr(metrics, "_download", refuse)
    assert metrics.lpips(*pictures(40, 40)) is None
    assert metrics.lpips(*pictures(40, 40)) is None
    assert len(tries) == 1  # a failure costs its time once


def test_no_lpips_with_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_torchvision(monkeypatch, "http://localhost/alexnet-0123.pth", tmp_path)
    monkeypatch.setattr(metrics, "ALEXNET", "http://localhost/alexnet-4567.pth")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-4567.pth").touch()
    assert metrics.lpips(*pictures(40, 40)) is None


def test_lpips_of_cached_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchmetrics.image.lpip  # noqa: F401

    fake_torchvision(monkeypatch, "http://localhost:9/alexnet-0123.pth", tmp_path)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-0123.pth").write_bytes(b"")  # the stand-in for torchvision reads no file
    image, target = pictures(40, 50)
    value = metrics.lpips(image, target)
    assert value is not None
    assert value > 0
    assert metrics.lpips(image, target) == value  # nothing is accumulated
    assert metrics.lpips(target, target) == 0
    nearer = metrics.lpips(0.1 * image + 0.9 * target, target)
    assert nearer is not None
    assert nearer < value
    mask = torch.zeros(40, 50, 1)
    mask[:, :25] = 1
    assert metrics.lpips(image, target, mask=mask) == metrics.lpips(image * mask, target * mask)
    assert metrics.lpips(image + (image > 0.5), target + 1e-7) is not None  # clamped, not refused
    assert metrics.lpips(image[:31, :31], target[:31, :31]) is not None
    assert metrics.lpips(image[:30], target[:30]) is None


CONTENT = b"weights" * 100_000
NAME = f"net-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


class Server(http.server.BaseHTTPRequestHandler):
    """Answers by the folder in the address."""

    def do_GET(self) -> None:
        kind = self.path.split("/")[1]
        if kind == "missing":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if kind == "whole":
            self.wfile.write(CONTENT)
        elif kind == "cut":
            self.wfile.write(CONTENT[:-1])
        elif kind == "changed":
            self.wfile.write(b"W" + CONTENT[1:])
        elif kind == "stalled":
            self.wfile.write(CONTENT[:10])
            time.sleep(1)
        elif kind == "slow":
            for i in range(40):
                self.wfile.write(CONTENT[i : i + 1])
                time.sleep(0.03)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_weights_are_fetched_once(address: str, tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / NAME
    metrics._download(f"{address}/whole/{NAME}", path)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", "404"),
        ("cut", "checksum"),
        ("changed", "checksum"),
        ("stalled", "timed out"),
        ("slow", "only 0.0 MB/s"),
    ],
)
def test_bad_downloads_leave_nothing(
    kind: str, message: str, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "STALL_S", 0.2)
    monkeypatch.setattr(metrics, "DOWNLOAD_S", 1.0)
    began = time.monotonic()
    with pytest.raises(OSError, match=message):
        metrics._download(f"{address}/{kind}/{NAME}", tmp_path / NAME)
    assert time.monotonic() - began < 5
    assert not list(tmp_path.iterdir())


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="refused"):
        metrics._download(f"http://127.0.0.1:9/{NAME}", tmp_path / NAME)
