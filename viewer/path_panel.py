"""The Path tab: a camera path made of views, seen in the scene, played, kept in files."""

from __future__ import annotations

import dataclasses
import functools
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from recon.viewer import tour as tours
from recon.viewer.callbacks import chosen_in, told, with_choice
from recon.viewer.names import file_in, names_in
from recon.viewer.poses import wxyz_of
from recon.viewer.tour import Stop, Tour
from recon.viewer.viewer import Viewer

if TYPE_CHECKING:
    import viser

NODE = "/path"  # in the scene
NONE = "–"  # in a list that has nothing
LINE = (240, 120, 60)
CHOSEN = (255, 220, 80)
DRAWN_STOPS = 60  # of more stops, as many evenly spread are drawn
PIECES = 200  # of the line
SUFFIX = ".json"
PLAYED = 30  # poses a second
ORBIT = 12.0  # seconds


class PathPanel:
    """One path, which all browsers share; `tour` is it."""

    def __init__(self, viewer: Viewer) -> None:
        self._viewer = viewer
        self._lock = threading.RLock()  # callbacks come from several threads
        self._playing: threading.Event | None = None
        self._tour = Tour()
        self._written: dict[str, Any] = {}  # what the elements were last made to show
        gui = viewer.server.gui
        with viewer.tab("Path"):
            self.add = gui.add_button("Add this view")
            self.stop: Any = gui.add_dropdown("Stop", (NONE,))
            self.stop_do = gui.add_button_group("This stop", ("Go", "Replace", "Remove"))
            self.stop_move = gui.add_button_group("Its place", ("Earlier", "Later"))
            self.seconds: Any = gui.add_number("To the next, s", 2.0, min=tours.BRIEFEST, max=tours.LONGEST, step=0.1)
            self.duration: Any = gui.add_number("Altogether, s", 0.0, min=0.0, max=tours.LONGEST, step=0.5)
            self.closed: Any = gui.add_checkbox("Closed loop", False)
            self.smoothness: Any = gui.add_slider("Smoothness", 0.0, 1.0, 0.05, 1.0)
            self.preset = gui.add_button_group("Whole path", ("Orbit", "Reverse", "Clear"))
            self.play = gui.add_button("Play")
            self.shown = gui.add_checkbox("Show in the scene", True)
            with gui.add_folder("File", expand_by_default=False):
                self.name = gui.add_text("Name", "path")
                self.save = gui.add_button_group("Keep", ("Save", "Download"))
                self.saved: Any = gui.add_dropdown("Saved", (NONE,))
                self.load = gui.add_button("Load")
                self.upload = gui.add_upload_button("Upload", mime_type="application/json")
        self._list_saved()
        self._listen()
        viewer.on_show(self._begin)

    @property
    def tour(self) -> Tour:
        return self._tour

    @tour.setter
    def tour(self, tour: Tour) -> None:
        self._set(tour, self._chosen())

    def _begin(self) -> None:
        """Something else is shown now, through which this path does not lead."""
        with self._lock:
            if self._playing is not None:
                self._playing.set()
            self._set(Tour(), -1)

    def _listen(self) -> None:
        clicks: list[tuple[Any, Callable[[Any], None]]] = [
            (self.add, self._add),
            (self.play, self._play),
            (self.load, self._load),
        ]
        choices: list[tuple[Any, Callable[[Any, str], None]]] = [
            (self.stop_do, self._do),
            (self.stop_move, self._move),
            (self.preset, self._preset),
            (self.save, self._save),
        ]
        updates: list[tuple[Any, Callable[[Any], None]]] = [
            (self.stop, lambda _: self._set(self._tour, self._chosen())),
            (self.seconds, self._retime_stop),
            (self.duration, self._retime),
            (self.closed, lambda _: self._change(self.closed, closed=bool(self.closed.value))),
            (self.smoothness, lambda _: self._change(self.smoothness, smoothness=float(self.smoothness.value))),
            (self.shown, lambda _: self._draw()),
        ]
        for handle, then in clicks:
            handle.on_click(self._safely(then))
        for handle, choose in choices:
            handle.on_click(with_choice(self._viewer, self._alone(choose)))
        for handle, then in updates:
            handle.on_update(self._safely(then))
        self.upload.on_upload(self._safely(self._uploaded))

    def _safely(self, then: Callable[[Any], None]) -> Callable[[Any], None]:
        return told(self._viewer, self._alone(then))

    def _alone(self, then: Callable[..., None]) -> Callable[..., None]:
        """For a callback: one at a time, and what is shown is what there is, whatever went wrong."""

        def alone(event: Any, *given: Any) -> None:
            with self._lock:
                try:
                    then(event, *given)
                except Exception:
                    self._written.clear()
                    self._set(self._tour, self._chosen())
                    raise

        return alone

    def _chosen(self) -> int:
        """The number of the stop that is chosen in the list; -1 where there is none."""
        return chosen_in(self.stop) if len(self._tour) else -1

    def _set(self, tour: Tour, chosen: int, source: Any = None) -> None:
        """Take a path, choose one of its stops, and show both.

        Args:
            source: the element that it comes from. What a user moves is not moved back to what it was a moment ago.
        """
        with self._lock:
            self._tour = tour
            chosen = max(min(chosen, len(tour) - 1), 0)
            self.stop.options = tuple(f"{number}" for number in range(1, len(tour) + 1)) or (NONE,)
            wanted = {"duration": tour.duration, "closed": tour.closed, "smoothness": tour.smoothness}
            if len(tour):
                self.stop.value = f"{chosen + 1}"
                wanted["seconds"] = tour.stops[chosen].seconds
            for name, value in wanted.items():
                handle, value = getattr(self, name), round(value, 3) if isinstance(value, float) else value
                if handle is not source and self._written.get(name) != value:
                    handle.value = value
                self._written[name] = value
            self._draw()

    def _change(self, source: Any, **values: Any) -> None:
        self._set(dataclasses.replace(self._tour, **values), self._chosen(), source)

    # Stops

    def _add(self, event: Any) -> None:
        chosen = self._chosen()
        seconds = self._tour.stops[chosen].seconds if len(self._tour) else self.seconds.value
        stop = Stop.of(self._viewer.camera(event.client), seconds)
        self._set(self._tour.insert(chosen + 1, stop), chosen + 1)

    def _do(self, event: Any, what: str) -> None:
        chosen = self._chosen()
        if chosen < 0:
            return
        here = self._tour.stops[chosen]
        if what == "Go":
            self._viewer.go(event.client, self._camera(event.client, self._tour.times[chosen]))
        elif what == "Replace":
            self._set(self._tour.replace(chosen, Stop.of(self._viewer.camera(event.client), here.seconds)), chosen)
        elif what == "Remove":
            self._set(self._tour.remove(chosen), chosen)

    def _move(self, event: Any, where: str) -> None:
        del event
        chosen, by = self._chosen(), {"Earlier": -1, "Later": 1}[where]
        if chosen >= 0:
            self._set(self._tour.move(chosen, by), min(max(chosen + by, 0), len(self._tour) - 1))

    def _retime_stop(self, event: Any) -> None:
        del event
        chosen = self._chosen()
        if chosen >= 0:
            here = self._tour.stops[chosen]
            new = dataclasses.replace(here, seconds=float(self.seconds.value))
            self._set(self._tour.replace(chosen, new), chosen, self.seconds)

    def _retime(self, event: Any) -> None:
        del event
        if self._tour.duration > 0:
            self._set(self._tour.retimed(float(self.duration.value)), self._chosen(), self.duration)

    def _preset(self, event: Any, which: str) -> None:
        if which == "Reverse":
            self._set(self._tour.reverse(), len(self._tour) - 1 - self._chosen())
        elif which == "Clear":
            self._set(Tour(), -1)
        elif which == "Orbit":
            scene, up = self._viewer.scene, torch.tensor(self._viewer.up, dtype=torch.float64)
            if scene is not None:
                self._set(tours.orbit(scene, ORBIT, up=up), 0)
            else:  # the middle of the world is that of the scene
                self._set(tours.turn(self._viewer.camera(event.client), torch.zeros(3), ORBIT, up=up), 0)

    # Showing

    def _camera(self, client: viser.ClientHandle, seconds: float) -> Any:
        window = self._viewer.camera(client)
        return self._tour.at([seconds], window.width, window.height)

    def _play(self, event: Any) -> None:
        """Begin to move a browser along the path, or stop it."""
        if self._playing is not None:
            self._playing.set()
            return
        if self._tour.duration == 0:
            raise ValueError("a path needs two stops")
        self._playing = threading.Event()
        self.play.label = "Stop"
        self._draw()
        arguments = (event.client, self._tour, self._playing)
        threading.Thread(target=self._move_along, args=arguments, name="path", daemon=True).start()

    def _move_along(self, client: viser.ClientHandle, tour: Tour, stopped: threading.Event) -> None:
        began = time.monotonic()
        try:
            while not stopped.wait(1 / PLAYED) and self._viewer.browser(client) is not None:
                passed = time.monotonic() - began
                window = self._viewer.camera(client)
                self._viewer.place(client, tour.at([min(passed, tour.duration)], window.width, window.height))
                if passed > tour.duration:
                    if not tour.closed:
                        break
                    began += tour.duration
        finally:
            with self._lock:
                self._playing = None
                self.play.label = "Play"
                self._draw()

    def _draw(self) -> None:
        """The path as a line and its stops as pyramids, among what is in the scene; not before one who rides along."""
        scene, tour = self._viewer.server.scene, self._tour
        scene.remove_by_name(NODE)
        if not self.shown.value or not len(tour) or self._playing is not None:
            return
        if tour.duration > 0:
            times = torch.linspace(0, tour.duration, PIECES + 1, dtype=torch.float64)
            line = tour.at(times, 2, 2).positions.numpy()
            if tour.closed:
                line[-1] = line[0]
            pieces = np.stack([line[:-1], line[1:]], axis=1)
            scene.add_line_segments(f"{NODE}/line", pieces, LINE, thickness=2.5, thickness_units="screen")
        every = -(-len(tour) // DRAWN_STOPS)
        for number in range(0, len(tour), every):
            camera = tour.at(tour.times[number : number + 1], 16, 9)
            stop = scene.add_camera_frustum(
                f"{NODE}/{number + 1}",
                fov=np.radians(tour.stops[number].fov),
                aspect=16 / 9,
                scale=0.04,
                thickness=2.0,
                thickness_units="screen",
                color=CHOSEN if number == self._chosen() else LINE,
                wxyz=wxyz_of(camera),
                position=camera.positions[0].numpy(),
                cast_shadow=False,
                receive_shadow=False,
            )
            stop.on_click(self._safely(functools.partial(self._choose, number)))

    def _choose(self, number: int, event: Any) -> None:
        del event
        self.stop.value = f"{number + 1}"
        self._set(self._tour, number)

    # Files

    def _list_saved(self, chosen: str | None = None) -> None:
        names = names_in(self._folder, SUFFIX)
        self.saved.options = tuple(names) or (NONE,)
        if chosen in names:
            self.saved.value = chosen

    @property
    def _folder(self) -> Any:
        return self._viewer.folder / "paths"

    def _save(self, event: Any, how: str) -> None:
        if not len(self._tour):
            raise ValueError("there is no path yet: add a view")
        file = file_in(self._folder, self.name.value, SUFFIX)
        tours.save(self._tour, file, self._viewer.source_from_world)
        self._list_saved(file.name.removesuffix(SUFFIX))
        if how == "Download":
            event.client.send_file_download(file.name, file.read_bytes(), save_immediately=True)
        else:
            self._viewer.tell(event.client, f"Saved: {file}")

    def _load(self, event: Any) -> None:
        del event
        if self.saved.value == NONE:
            raise ValueError("no path was saved yet")
        self._set(tours.load(file_in(self._folder, self.saved.value, SUFFIX), self._viewer.source_from_world), 0)

    def _uploaded(self, event: Any) -> None:
        file = event.target.value
        self._set(tours.loads(file.content, file.name, self._viewer.source_from_world), 0)
