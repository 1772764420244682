"""What `vjepa show` shows: the names of the files that it wrote."""

from __future__ import annotations

from openvjepa.cli.console import say
from openvjepa.commands.show import ShowResult
from openvjepa.config import ShowConfig

MOST_VIDEOS = 4  # that are listed one by one


def show(result: ShowResult, config: ShowConfig) -> None:
    """The written files, the number of unreadable files, and the pages to open."""
    videos = [path for path in result.files if path.suffix == ".mp4"]
    for path in result.files:
        if path.suffix != ".mp4" or len(videos) <= MOST_VIDEOS:
            say(f"wrote {path}")
    if len(videos) > MOST_VIDEOS:
        say(f"wrote {len(videos)} videos, {videos[0]} to {videos[-1].name}")
    if result.skipped:
        say(f"unreadable files: {len(result.skipped)}")
    pages = [str(path) for path in result.files if path.suffix == ".html"]
    if pages:
        say(f"next: open {' or '.join(pages)} in a browser")
