"""What commands say to the user."""

from __future__ import annotations

from rich.console import Console

console = Console(highlight=False)


def say(text: str) -> None:
    """A line for the user; never broken, so that paths can be copied."""
    console.print(text, soft_wrap=True, markup=False)
