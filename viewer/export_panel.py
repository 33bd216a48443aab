"""What the File tab makes: the scene as a file, what is seen as a picture, all of it as one page to share."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon.datasets.errors import InputError
from recon.datasets.files import atomic_write
from recon.viewer.callbacks import told
from recon.viewer.look import Colour, Vector
from recon.viewer.names import file_in
from recon.viewer.share import MOST
from recon.viewer.subject import Splats
from recon.viewer.tour import Tour
from recon.viewer.viewer import Viewer

if TYPE_CHECKING:
    import viser

# The page of: splats, the path if there is one, background, title, description, the direction that is up.
MakePage = Callable[[Splats, Tour | None, Colour, str, str, Vector], str]

LARGEST_SIDE = 4096  # px of a snapshot


class ExportPanel:
    """Makes files in `viewer.folder`, one at a time, and sends them to the browser that asked."""

    def __init__(
        self,
        viewer: Viewer,
        suffixes: Sequence[str],
        make_page: MakePage | None = None,
        tour: Callable[[], Tour] = Tour,
    ) -> None:
        """
        Args:
            suffixes: of the formats that the subject can be saved in; none: it cannot be.
            make_page: None: no page can be made.
            tour: what the page plays; nothing where it has no stops.
        """
        self._viewer, self._suffixes, self._make_page, self._tour = viewer, suffixes, make_page, tour
        self._busy = threading.Lock()
        gui = viewer.server.gui
        with viewer.tab("File"):
            if suffixes:
                with gui.add_folder("Scene"):
                    self.format: Any = gui.add_dropdown("Format", tuple(suffixes))
                    self.name = gui.add_text("File name", "scene")
                    self.export = gui.add_button(
                        "Export", hint="In the capture's coordinates; without what is deleted or outside the crop box."
                    )
                self.export.on_click(told(viewer, functools.partial(self._begin, self._exported)))
            with gui.add_folder("Picture"):
                self.size: Any = gui.add_vector2("Width, height", (1920, 1080), min=(1, 1), step=1)
                self.snapshot = gui.add_button("Snapshot", hint="What this browser sees now, drawn by recon.")
            if make_page is not None:
                with gui.add_folder("Page to share"):
                    self.title: Any = gui.add_text("Title", viewer.name)
                    self.description: Any = gui.add_text("Description", "", multiline=True)
                    self.page = gui.add_button(
                        "Make the page", hint="One file that opens in any browser and needs no network."
                    )
                self.page.on_click(told(viewer, functools.partial(self._begin, self._shared)))
                viewer.on_show(self._name)
        self.snapshot.on_click(told(viewer, functools.partial(self._begin, self._seen)))

    def _begin(self, make: Callable[[viser.ClientHandle], Path], event: Any) -> None:
        """Make a file, then say its size and send it."""
        client = event.client

        def work() -> None:
            if not self._busy.acquire(blocking=False):
                self._viewer.tell(client, "Wait: another file is being made.")
                return
            try:
                file = make(client)
            except Exception as error:  # whatever it was, the user is told, and all goes on
                self._viewer.tell(client, f"{error}", error=True)
                return
            finally:
                self._busy.release()
            self._viewer.tell(client, f"{_size(file.stat().st_size)}: {file}")
            client.send_file_download(file.name, file.read_bytes())

        threading.Thread(target=work, name="export", daemon=True).start()

    def _name(self) -> None:
        """Something else is shown now."""
        self.title.value, self.description.value = self._viewer.name, ""

    def _exported(self, client: viser.ClientHandle) -> Path:
        viewer, look = self._viewer, self._viewer.look(client)
        if self.format.value not in self._suffixes:
            raise InputError(f"{self.format.value!r} is no format that a scene is written in")
        file = file_in(viewer.folder / "exports", self.name.value, self.format.value)
        file.parent.mkdir(parents=True, exist_ok=True)
        viewer.run(lambda: viewer.subject.saver(look)).result()(file)
        return file

    def _seen(self, client: viser.ClientHandle) -> Path:
        from PIL import Image

        viewer, look = self._viewer, self._viewer.look(client)
        width, height = (min(max(round(side), 1), LARGEST_SIDE) for side in self.size.value)
        camera = viewer.camera(client, width, height)
        picture = viewer.run(lambda: viewer.subject.draw(camera, look)).result()
        file = file_in(viewer.folder / "snapshots", f"{datetime.now():%Y-%m-%d_%H%M%S_%f}", ".png")
        with atomic_write(file) as target:
            Image.fromarray(picture).save(target, format="PNG")
        return file

    def _shared(self, client: viser.ClientHandle) -> Path:
        viewer, look = self._viewer, self._viewer.look(client)
        assert self._make_page is not None
        file = file_in(viewer.folder / "pages", self.name.value, ".html")
        splats = viewer.run(lambda: viewer.subject.splats(MOST, look)).result()
        if splats is None:
            raise ValueError("This scene is not made of splats.")
        background = viewer.subject.background if look.background is None else look.background
        tour = self._tour() if len(self._tour()) else None
        page = self._make_page(splats, tour, background, self.title.value, self.description.value, viewer.up)
        with atomic_write(file) as target:
            target.write(page.encode())
        return file


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"
