"""Scores against cases whose figures are known, and the pictures that go with them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

from recon import metrics
from recon.datasets.cameras import Cameras, intrinsics
from recon.datasets.errors import InputError
from recon.datasets.images import ArrayImage
from recon.datasets.scene import View
from recon.evaluate import (
    CAPTION,
    ERROR_RANGE,
    GAP,
    Evaluation,
    ViewScores,
    compare,
    draw_comparison,
    evaluate,
    file_name,
    model_bytes,
    over_background,
    peak_memory_bytes,
    save_comparison,
    save_comparisons,
    table,
)
from recon.gaussians import Gaussians, logit
from recon.model import RenderOutput

WIDTH, HEIGHT = 24, 16


def camera(number: int = 0) -> Cameras:
    """From z = -4 towards the origin, a little to the right each time."""
    viewmat = torch.eye(4, dtype=torch.float64)[None].clone()
    viewmat[0, :3, 3] = torch.tensor([-0.2 * number, 0.0, 4.0])
    return Cameras(viewmat, intrinsics(30, 30, WIDTH / 2, HEIGHT / 2), WIDTH, HEIGHT)


class Painting:
    """A model that shows `rgb` [H,W,3] with opacity `alpha`, whatever the camera; the first time is slow."""

    def __init__(self, rgb: Tensor, *, alpha: float = 1.0, first_s: float = 0.0, then_s: Sequence[float] = ()) -> None:
        self.rgb, self.alpha, self.delays, self.count = rgb, alpha, [first_s, *then_s], 0

    def render(
        self, cameras: Cameras, *, background: Tensor | None = None, depth: bool = True, **_: object
    ) -> RenderOutput:
        assert not torch.is_grad_enabled()
        assert len(cameras) == 1
        time.sleep(self.delays[min(self.count, len(self.delays) - 1)])
        self.count += 1
        behind = torch.zeros(3) if background is None else background
        alpha = torch.full_like(self.rgb[None, ..., :1], self.alpha)
        return RenderOutput(self.rgb[None] * alpha + behind * (1 - alpha), alpha)

    def param_groups(self, extent: float) -> list:
        return []

    def regularisers(self) -> dict[str, Tensor]:
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        return {"rgb": self.rgb}


def view(image: Tensor, name: str = "images/0001.jpg", mask: Tensor | None = None) -> View:
    return View(name, camera(), ArrayImage(image), None if mask is None else ArrayImage(mask))


def noise(seed: int = 0, channels: int = 3) -> Tensor:
    return torch.rand(HEIGHT, WIDTH, channels, generator=torch.Generator().manual_seed(seed)) * 0.8


def scores(name: str = "a.jpg", psnr: float = 30.0, lpips: float | None = None, seconds: float = 0.01) -> ViewScores:
    return ViewScores(name, WIDTH, HEIGHT, psnr, 0.9, lpips, seconds)


@pytest.fixture
def no_lpips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "lpips", lambda *_, **__: None)


@pytest.fixture
def splats() -> Gaussians:
    """Three soft coloured blobs."""
    means = torch.tensor([[-0.6, 0.0, 0.0], [0.3, 0.3, 0.5], [0.5, -0.3, -0.4]])
    colours = torch.tensor([[1.0, -0.5, 0.0], [0.0, 1.0, 0.5], [0.3, 0.0, 1.2]])
    return Gaussians(
        means,
        torch.tensor([1.0, 0.0, 0.0, 0.0]).expand(3, 4),
        torch.full((3, 3), math.log(0.3)),
        torch.full((3,), logit(0.9)),
        colours[:, None],
        torch.zeros(3, 0, 3),
    )


def test_a_known_error_has_its_known_psnr() -> None:
    photo = noise()
    result = evaluate(Painting(photo + 0.1), [view(photo)], lpips=False)
    assert result.psnr == pytest.approx(20.0, abs=1e-4)
    assert result.views[0].name == "images/0001.jpg"
    assert (result.views[0].width, result.views[0].height) == (WIDTH, HEIGHT)


def test_means_are_of_the_views_scores() -> None:
    photos = [noise(i) for i in range(3)]
    views = [view(p, f"{i}.png") for i, p in enumerate(photos)]
    result = evaluate(Painting(photos[0] + 0.05), views, lpips=False)
    assert [v.name for v in result.views] == ["0.png", "1.png", "2.png"]
    for photo, one in zip(photos, result.views, strict=True):
        assert one.psnr == pytest.approx(metrics.psnr(photos[0] + 0.05, photo))
        assert one.ssim == pytest.approx(metrics.ssim(photos[0] + 0.05, photo))
    assert result.psnr == pytest.approx(sum(v.psnr for v in result.views) / 3)
    assert result.ssim == pytest.approx(sum(v.ssim for v in result.views) / 3)


def test_splats_score_perfectly_on_their_own_pictures_and_worse_on_others(splats: Gaussians) -> None:
    background = (0.1, 0.2, 0.3)
    views = []
    for number in range(3):
        with torch.no_grad():
            out = splats.render(camera(number), background=torch.tensor(background))
        views.append(View(f"{number}.png", camera(number), ArrayImage(out.rgb[0].clamp(0, 1))))
    result = evaluate(splats, views, background=background, lpips=False)
    assert result.psnr is not None
    assert result.psnr > 100  # equal, up to rounding
    assert result.ssim == pytest.approx(1.0, abs=1e-5)
    shifted = [View(v.name, camera(n + 1), v.image) for n, v in enumerate(views)]
    worse = evaluate(splats, shifted, background=background, lpips=False)
    assert worse.psnr is not None
    assert worse.psnr < 40
    assert splats.means.grad is None


def test_the_picture_is_clamped_but_not_rounded() -> None:
    over = torch.full((HEIGHT, WIDTH, 3), 1.7)
    assert evaluate(Painting(over), [view(torch.ones_like(over))], lpips=False).psnr == math.inf
    step = 0.3 / 255  # less than half a step of 8 bits
    photo = torch.full((HEIGHT, WIDTH, 3), 100 / 255)
    found = evaluate(Painting(photo + step), [view(photo)], lpips=False).psnr
    assert found == pytest.approx(-20 * math.log10(step), abs=0.01)


def test_a_photo_with_alpha_is_put_over_the_rendered_background() -> None:
    colour = noise()
    photo = torch.cat([colour, torch.full((HEIGHT, WIDTH, 1), 0.25)], dim=-1)
    for background in ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.2, 0.5, 0.9)):
        (one,) = compare(Painting(colour, alpha=0.25), [view(photo)], background=background, lpips=False)
        assert torch.allclose(one.photo, 0.25 * colour + 0.75 * torch.tensor(background), atol=1e-6)
        assert one.scores.psnr > 100
    assert torch.equal(over_background(colour, torch.ones(3)), colour)


def test_masked_pixels_do_not_count() -> None:
    photo = noise()
    render, mask = photo + 0.1, torch.ones(HEIGHT, WIDTH, 1)
    render[:, :8], mask[:, :8] = 0.0, 0.0
    result = evaluate(Painting(render), [view(photo, mask=mask)], lpips=False)
    assert result.psnr == pytest.approx(20.0, abs=1e-4)
    unmasked = evaluate(Painting(render), [view(photo)], lpips=False)
    assert unmasked.psnr is not None
    assert unmasked.psnr < 15
    assert unmasked.ssim != result.ssim


def test_a_view_whose_mask_is_empty_has_no_scores_and_spoils_no_mean() -> None:
    photo = noise()
    empty = view(photo, "masked.png", torch.zeros(HEIGHT, WIDTH, 1))
    result = evaluate(Painting(photo + 0.1), [empty, view(photo)], lpips=False)
    assert math.isnan(result.views[0].psnr)
    assert result.psnr == pytest.approx(20.0, abs=1e-4)
    assert result.to_json()["views"][0]["psnr"] is None


def test_pictures_too_small_for_ssim() -> None:
    tiny = torch.full((4, 5, 3), 0.5)
    small = View("tiny.png", Cameras(torch.eye(4)[None], torch.eye(3)[None], 5, 4), ArrayImage(tiny))
    result = evaluate(Painting(tiny + 0.1), [small], lpips=False)
    assert result.psnr == pytest.approx(20.0, abs=1e-4)
    assert result.ssim is None


def test_no_views_have_no_scores() -> None:
    model = Painting(noise())
    result = evaluate(model, [])
    assert (result.psnr, result.ssim, result.lpips, result.fps) == (None, None, None, None)
    assert result.to_json() == {"psnr": None, "ssim": None, "lpips": None, "fps": None, "views": []}
    assert "held out" in printed(result)
    assert model.count == 0


def test_time_is_the_rendering_without_its_first_use() -> None:
    photo = noise()
    model = Painting(photo, first_s=0.5, then_s=[0.02, 0.02, 0.2, 0.02])
    result = evaluate(model, [view(photo, f"{i}.png") for i in range(3)], lpips=False)
    assert [v.seconds > 0.15 for v in result.views] == [False, False, True]
    assert result.fps is not None
    assert 5 < result.fps <= 50  # the median: one slow view does not count


def test_scores_and_pictures_come_from_one_render(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One render for each view, and one before them to warm up; pictures are there when a view is reported as done."""
    monkeypatch.setattr("recon.evaluate.TOGETHER", 2)
    photos = [noise(i) for i in range(3)]
    model = Painting(photos[0])
    events = []

    def note(done: int, total: int) -> None:
        events.append((done, total, model.count, len(list(tmp_path.glob("*.png")))))

    views = [view(p, f"{i}.png") for i, p in enumerate(photos)]
    evaluate(model, views, lpips=False, comparisons=tmp_path, progress=note)
    assert events == [(1, 3, 3, 2), (2, 3, 3, 2), (3, 3, 4, 3)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000_0.png", "001_1.png", "002_2.png"]


@pytest.mark.parametrize("threads", [1, 3])
def test_nothing_runs_while_a_picture_is_timed(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do torch's threads change for those who did not ask, and the results come in the order of the views."""
    monkeypatch.setattr("recon.evaluate.get_threads", lambda: threads)
    before = torch.get_num_threads()
    busy, seen = [0], []

    class Photo:
        def load(self) -> Tensor:
            busy[0] += 1
            time.sleep(0.002)
            busy[0] -= 1
            return noise(1)

    class Watched(Painting):
        def render(self, *args: Any, **options: Any) -> RenderOutput:
            seen.append(busy[0])
            return super().render(*args, **options)

    views = [View(f"{i:02d}.png", camera(), Photo()) for i in range(19)]
    found = list(compare(Watched(noise()), views, lpips=False))
    assert [one.scores.name for one in found] == [one.name for one in views]
    assert [one.number for one in found] == list(range(19))
    assert seen == [0] * 20
    assert torch.get_num_threads() == before


def test_a_photo_that_cannot_be_read_ends_the_evaluation() -> None:
    class Broken:
        def load(self) -> Tensor:
            raise InputError("broken.jpg: cannot be decoded")

    with pytest.raises(InputError, match=r"broken\.jpg"):
        evaluate(Painting(noise()), [view(noise()), View("broken", camera(), Broken())], lpips=False)


def test_lpips_is_averaged_or_not_available(monkeypatch: pytest.MonkeyPatch) -> None:
    photo = noise()
    answers = iter([0.2, 0.4])
    monkeypatch.setattr(metrics, "lpips", lambda *_, **__: next(answers))
    result = evaluate(Painting(photo + 0.1), [view(photo), view(photo)])
    assert result.lpips == pytest.approx(0.3)
    assert "0.3000" in printed(result)
    assert Evaluation((scores(lpips=0.2), scores(lpips=None))).lpips is None


@pytest.mark.usefixtures("no_lpips")
def test_lpips_that_cannot_be_had_is_never_a_number() -> None:
    photo = noise()
    result = evaluate(Painting(photo + 0.1), [view(photo)])
    assert result.lpips is None
    assert result.to_json()["lpips"] is None
    assert printed(result).count("n/a") == 2  # the view's and the mean's


def test_lpips_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("asked for LPIPS")

    monkeypatch.setattr(metrics, "lpips", forbidden)
    assert evaluate(Painting(noise()), [view(noise(1))], lpips=False).lpips is None


def test_json_is_strict_and_complete() -> None:
    perfect = Evaluation((scores("a.jpg", psnr=math.inf), scores("b.jpg", psnr=30.0, seconds=0.03)))
    text = json.dumps(perfect.to_json(), allow_nan=False)
    read = json.loads(text)
    assert read["psnr"] is None
    assert read["fps"] == pytest.approx(50.0)
    assert read["views"][1] == {
        "name": "b.jpg",
        "width": WIDTH,
        "height": HEIGHT,
        "psnr": 30.0,
        "ssim": 0.9,
        "lpips": None,
        "seconds": 0.03,
    }


def printed(evaluation: Evaluation) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(evaluation))
    return console.export_text()


def test_the_table_has_every_view_and_the_means() -> None:
    text = printed(Evaluation((scores("one.jpg", psnr=31.234), scores("two.jpg", psnr=math.inf, seconds=0.03))))
    lines = {line.split("│")[1].strip(): line for line in text.splitlines() if line.startswith("│")}
    assert "31.23" in lines["one.jpg"]
    assert "10.0" in lines["one.jpg"]
    assert "inf" in lines["two.jpg"]
    assert "0.9000" in lines["mean of 2"]
    assert "20.0" in lines["mean of 2"]


def test_a_comparison_shows_render_photo_and_error(tmp_path: Path) -> None:
    photo = torch.full((HEIGHT, WIDTH, 3), 0.4)
    render, mask = photo.clone(), torch.ones(HEIGHT, WIDTH, 1)
    render[:, 8:16] += ERROR_RANGE  # as much as the map shows
    render[:, 16:] = 0.0  # more than that, but masked
    mask[:, 16:] = 0.0
    (one,) = compare(Painting(render), [view(photo, mask=mask)], lpips=False)
    path = save_comparison(one, tmp_path / "pictures")
    assert path == tmp_path / "pictures" / "000_images_0001.png"
    sheet = np.asarray(Image.open(path)).astype(int)
    assert np.array_equal(sheet, draw_comparison(one))
    assert sheet.shape == (HEIGHT + CAPTION, 3 * WIDTH + 2 * GAP, 3)
    panels = [sheet[CAPTION:, i * (WIDTH + GAP) : i * (WIDTH + GAP) + WIDTH] for i in range(3)]
    assert np.array_equal(panels[0], (render.numpy() * 255).round())
    assert (panels[1] == 102).all()
    assert panels[2][:, :8].max() <= 4
    assert (panels[2][:, 8:16] == panels[2][0, 8]).all()
    assert np.abs(panels[2][0, 8] - [252, 255, 164]).max() <= 1
    assert panels[2][:, 16:].max() <= 4


def test_every_view_keeps_its_picture_whatever_it_is_called(tmp_path: Path) -> None:
    names = [
        "a/b.jpg",
        "a_b.jpg",
        "a_b.png",
        "../../etc/passwd",
        "C:\\x?.png",
        "CON",
        "ä/夕日.webp",
        "x" * 300,
        "日" * 300,
    ]
    paths = save_comparisons(Painting(noise()), [view(noise(i), name) for i, name in enumerate(names)], tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    assert len(set(paths)) == len(names)
    assert paths[0].name == "000_a_b.png"
    assert paths[6].name == "006_ä_夕日.png"
    for path in paths:
        assert not set(path.name) & set('\\/:*?"<>| ')


def test_file_names_keep_the_end_of_a_long_name_and_what_is_no_suffix() -> None:
    assert file_name("frame.0001") == "frame.0001"
    assert file_name("long/" * 50 + "0042.jpg").endswith("_0042")


def test_model_bytes(splats: Gaussians) -> None:
    assert model_bytes(splats) == 3 * (3 + 4 + 3 + 1 + 3) * 4


def test_peak_memory_is_this_process_s_own_and_sees_what_was_given_back() -> None:
    """A process with 400 MB more for a moment, started by one that has them too: those of the parent do not count."""
    script = (
        "import numpy as np, psutil; from recon.evaluate import peak_memory_bytes as peak\n"
        "early, now = peak(), psutil.Process().memory_info().rss\n"
        "block = np.ones(50_000_000); del block; print(early, now, peak())"
    )
    large = np.ones(75_000_000)
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    early, now, after = map(int, answer.stdout.split())
    assert peak_memory_bytes() > large.nbytes
    assert 1e7 < early < large.nbytes
    assert 3.8e8 < after - now < 5e8
