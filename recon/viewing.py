"""From the command to the viewer: open what is to be looked at, and serve it until the user has seen enough.

Beside `cli`, this and `live` are the only modules that know the viewer.
"""

from __future__ import annotations

import logging
import math
import tempfile
import webbrowser
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from viser import UploadedFile

from recon import distilling, export, opening, runs
from recon.comparing import PhotoComparison
from recon.datasets.errors import InputError
from recon.datasets.scene import Scene
from recon.exposure import Shot
from recon.field_subject import FieldSubject
from recon.gaussians import Gaussians, logit
from recon.loading import load_state, load_with_frame, trained_scene
from recon.model import Field
from recon.nerfstudio import runs as nerfstudio_runs
from recon.options import Address, Options
from recon.runs import Run
from recon.sharing import page_from, write_page
from recon.subject import SplatSubject
from recon.terminal import say
from recon.train import TrainState
from recon.video import write_video
from recon.viewer import tour as tours
from recon.viewer.browser import Browser
from recon.viewer.callbacks import told
from recon.viewer.cameras_panel import CamerasPanel
from recon.viewer.crop_panel import CropPanel
from recon.viewer.edit_panel import EditPanel
from recon.viewer.export_panel import ExportPanel
from recon.viewer.look import Colour, Vector
from recon.viewer.measure_panel import MeasurePanel
from recon.viewer.path_panel import PathPanel
from recon.viewer.subject import Splats
from recon.viewer.tour import Tour
from recon.viewer.video_panel import VideoPanel
from recon.viewer.view_panel import ViewPanel
from recon.viewer.viewer import Viewer

log = logging.getLogger("recon")

# What is shown of a model, whose world [4,4] leads from to the frame of the capture's files.
Keep = Callable[[Gaussians, torch.Tensor], Gaussians]


@dataclass(frozen=True)
class Shown:
    """What was opened to be looked at.

    Attributes:
        scene: the capture with its photos, corrected poses; None where there is none, or it is gone.
        folder: where files made from the page go.
        shots: how each photo was exposed; None: all alike.
        source_from_world: [4,4] to the frame that files are written in.
    """

    subject: SplatSubject | FieldSubject
    name: str
    folder: Path
    scene: Scene | None = None
    shots: list[Shot] | None = None
    source_from_world: torch.Tensor = field(default_factory=lambda: torch.eye(4, dtype=torch.float64))


def open_source(source: Path, device: torch.device, keep: Keep | None = None, *, as_splats: bool = False) -> Shown:
    """A run, a checkpoint, a splat file, or a capture that was not trained yet; or what `keep` leaves of it.

    Args:
        as_splats: whether of a radiance field splats are made.
    """
    if source.exists() and export.is_splats(source):
        subject, frame = opened_file(source, keep)
        return Shown(subject, source.name, Path.cwd(), source_from_world=frame)
    nerfstudio = nerfstudio_runs.find(source)
    try:
        run = None if nerfstudio else runs.find(source)
    except InputError:
        if source.is_dir():
            return _open_capture(source, device, keep)
        raise
    state = load_state(source, device)
    if as_splats:
        state = distilling.as_splats(source, state)
    model = state.model if keep is None else keep(state.gaussians, state.source_from_world)
    scene = None
    try:
        scene = trained_scene(source, state, device)
    except InputError as error:
        say(f"Shown without photos: {error}")
    shots = None
    if scene is not None and state.exposure is not None:
        shots = state.exposure.predicted(scene.views, range(len(scene.views)))
        for row, place in enumerate(state.exposure.places.tolist()):
            shots[place] = state.exposure.shot(row, scene.views[place].camera)
    if run is None:
        assert nerfstudio is not None
        return _shown(*nerfstudio_runs.called(nerfstudio), state, model, scene)
    return shown_of(run, state, model, scene, shots)


def shown_of(
    run: Run, state: TrainState, model: Gaussians | Field, scene: Scene | None, shots: list[Shot] | None = None
) -> Shown:
    """A model of a run, which is called as its capture."""
    name = Path(str(run.config().get("options", {}).get("scene", run.path.name))).name
    return _shown(name, run.path, state, model, scene, shots)


def _shown(
    name: str,
    folder: Path,
    state: TrainState,
    model: Gaussians | Field,
    scene: Scene | None,
    shots: list[Shot] | None = None,
) -> Shown:
    background, frame = opening.background_of(state), state.source_from_world
    subject: SplatSubject | FieldSubject
    if isinstance(model, Gaussians):
        subject = SplatSubject(model, background=background, source_from_world=frame)
    else:
        subject = FieldSubject(model, background)
    return Shown(subject, name, folder, scene, shots, frame)


def opened_file(path: Path, keep: Keep | None = None) -> tuple[SplatSubject, torch.Tensor]:
    """A splat file, moved to the middle of the world and made a handy size, and the frame [4,4] that it is written in;
    COLMAP's is taken for its own."""
    model, in_file = load_with_frame(path)
    if keep is not None:
        model = keep(model, in_file)
    source_from_world = _handy_frame(model)
    moved = model.transformed(source_from_world.inverse())
    return SplatSubject(moved, source_from_world=source_from_world), source_from_world


def _handy_frame(model: Gaussians) -> torch.Tensor:
    """[4,4] float64: a frame with the splats' middle at 0, most of them within 1 of it, and +z where -y was."""
    middle, radius = model.bulk()
    frame = torch.eye(4, dtype=torch.float64)
    frame[:3, :3] = (radius or 1.0) * torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]], dtype=torch.float64)
    frame[:3, 3] = middle
    return frame


def _open_capture(folder: Path, device: torch.device, keep: Keep | None) -> Shown:
    """A capture as it comes: its points as small splats, and its photos."""
    options = Options(scene=str(folder))
    scene, _ = opening.open_scene(options, device)
    model = opening.initial_model(scene, options.train_config(), device)
    with torch.no_grad():  # a training begins with faint ones that touch each other
        model.logit_opacities.fill_(logit(0.95))
        model.log_scales += math.log(0.3)
    if keep is not None:
        model = keep(model, scene.source_from_world)
    subject = SplatSubject(model, source_from_world=scene.source_from_world)
    say(f"{scene.name} was not trained yet: its points and photos are shown. Train it: recon train {folder}")
    return Shown(subject, scene.name, folder, scene, source_from_world=scene.source_from_world)


def make_viewer(shown: Shown, address: Address, *, edits: bool) -> Viewer:
    """The viewer with all its tabs; `edits`: whether splats, if it shows any, can be selected and deleted."""
    splats = shown.subject if isinstance(shown.subject, SplatSubject) else None
    comparison = None if shown.scene is None else PhotoComparison(shown.scene, shown.subject, shown.shots)
    viewer = Viewer(
        shown.subject,
        folder=shown.folder,
        name=shown.name,
        scene=shown.scene,
        editor=splats if edits else None,
        comparison=comparison,
        source_from_world=shown.source_from_world,
        host=address.host,
        port=address.port,
        token=address.token,
    )

    def add_view_panel(browser: Browser) -> None:
        ViewPanel(viewer, browser)

    viewer.on_browser(add_view_panel)
    if not edits:
        with viewer.tab("Training"):  # where `live` puts its panel: before the other tabs
            pass
    if shown.scene is not None:
        CamerasPanel(viewer, shown.scene)
    if splats is not None and edits:
        EditPanel(viewer)
    elif splats is not None:
        CropPanel(viewer)
    path = PathPanel(viewer)
    VideoPanel(viewer, path, _write_video)
    MeasurePanel(viewer)

    def make_page(
        splats: Splats, tour: Tour | None, background: Colour, title: str, description: str, up: Vector
    ) -> str:
        return page_from(splats, tour, background, title, description, viewer.scene, up)

    if splats is None:
        ExportPanel(viewer, ())
        return viewer
    files = [suffix for suffix in export.SAVERS if suffix.startswith(".")]  # and not the name of a file in a folder
    ExportPanel(viewer, files, make_page, lambda: path.tour)
    if edits:
        _add_opening(viewer)
    return viewer


def _write_video(frames: Iterable[NDArray[np.uint8]], path: Path, fps: float) -> None:
    write_video(frames, path, fps=fps)


def _add_opening(viewer: Viewer) -> None:
    """A button for another file to look at; the page gives it what is dropped on it."""
    with viewer.tab("File"):
        button = viewer.server.gui.add_upload_button(
            "Open file", mime_type=",".join(sorted(export.LOADERS)), hint="A splat file. Or drop it on the page."
        )

    def opened(event: Any) -> None:
        given, button._impl.value = button.value, UploadedFile("", b"")  # viser would keep it in memory
        suffix = Path(given.name).suffix.lower()
        path = None
        try:
            if suffix not in export.LOADERS:
                raise InputError(f"no splat format has the suffix '{suffix}'")
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder) / f"opened{suffix}"
                path.write_bytes(given.content)
                subject, frame = opened_file(path)
        except InputError as error:
            viewer.tell(event.client, f"{given.name}: {str(error).removeprefix(f'{path}: ')}", error=True)
            return
        name = Path(given.name).name
        viewer.run(lambda: viewer.show(subject, subject, name, frame))

    button.on_upload(told(viewer, opened))


def serve(viewer: Viewer, *, open_page: bool, until: Callable[[], bool] = lambda: False) -> None:
    """Draw for browsers until Ctrl-C."""
    say(f"Viewer: {viewer.address}   (Ctrl-C ends it)")
    if open_page:
        webbrowser.open(viewer.address)
    try:
        viewer.queue.run(until)
    except KeyboardInterrupt:
        say("Viewer closed.")
    finally:
        viewer.close()


def view(source: Path, address: Address, device: torch.device, *, open_page: bool) -> None:
    """Look at a run, a file or a capture in the browser."""
    shown = open_source(source, device)
    if shown.subject.count:
        say(f"{shown.name}: {shown.subject.count:,} splats")
    serve(make_viewer(shown, address, edits=True), open_page=open_page)


def share(
    source: Path,
    out: Path,
    device: torch.device,
    *,
    camera_path: Path | None = None,
    description: str = "",
    keep: Keep | None = None,
) -> None:
    """Write one page of HTML that shows a run, a file or a capture, or what `keep` leaves of it."""
    shown = open_source(source, device, keep, as_splats=True)
    assert isinstance(shown.subject, SplatSubject)
    tour = None if camera_path is None else tours.load(camera_path, shown.source_from_world)
    write_page(out, shown.subject, shown.name, shown.scene, tour=tour, description=description)
