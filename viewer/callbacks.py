"""What the callbacks of elements have in common."""

from __future__ import annotations

import logging
from collections.abc import Callable, Coroutine
from typing import Any

from recon.viewer.viewer import Viewer

log = logging.getLogger("recon")


def told(viewer: Viewer, then: Callable[..., None]) -> Callable[..., None]:
    """A callback that does `then` when a user does something, and not when we set a value ourselves.

    Whatever goes wrong is said in the user's browser: a page may send any value, and harms only itself.
    """

    def called(event: Any, *given: Any) -> None:
        if event.client is None:
            return
        try:
            then(event, *given)
        except Exception as error:
            log.debug("a callback of the viewer failed", exc_info=True)
            viewer.tell(event.client, f"{error}", error=True)

    return called


def with_choice(viewer: Viewer, then: Callable[[Any, str], None]) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """A callback of a group of buttons: `then(event, label)` with the label of the one that was clicked.

    By the time that another thread looks, the group's own value may be that of the next click.
    """

    async def clicked(event: Any) -> None:  # on the thread that hears of clicks, before it hears of another
        if event.client is not None:
            viewer.server._thread_executor.submit(told(viewer, then), event, event.target.value)

    return clicked


def chosen_in(dropdown: Any) -> int:
    """Which of its options a dropdown is at; -1 for a value that is none of them."""
    return dropdown.options.index(dropdown.value) if dropdown.value in dropdown.options else -1
