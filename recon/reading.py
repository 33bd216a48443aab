"""Photos decoded before they are needed, on all cores: in the training the other cores would wait for each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed

from recon.datasets import cache
from recon.datasets.scene import StoredImage, View
from recon.kernels.runtime import get_threads


class Reading:
    """Decodes photos and masks into the cache of decoded images, from now on, in the background.

    Those that cannot all be kept are left alone: the first ones would be gone before they are used. One that cannot be
    decoded is an error when it is used.
    """

    def __init__(self, views: Sequence[View]) -> None:
        sources = [source for view in views for source in (view.image, view.mask) if isinstance(source, StoredImage)]
        self._futures: list[Future[object]] = []
        if sum(source.pixel_bytes for source in sources) > cache.images.limit:
            return
        self._pool = ThreadPoolExecutor(get_threads(), thread_name_prefix="recon-reading")
        self._futures = [self._pool.submit(source.pixels) for source in sources]
        self._pool.shutdown(wait=False)

    def wait(self, progress: Callable[[int, int], None]) -> None:
        """Until all are decoded; `progress` is told how many are, and how many there are, each time one is done."""
        try:
            for done, _ in enumerate(as_completed(self._futures), 1):
                progress(done, len(self._futures))
        except BaseException:
            for future in self._futures:
                future.cancel()
            raise
