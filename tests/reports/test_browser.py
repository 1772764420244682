"""The similarity page in a real Chromium, by mouse and by keyboard; skipped where Playwright or Chromium is missing."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from openvjepa.commands.show import show

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
PIXELS = "[...document.querySelectorAll('canvas')].map(canvas => canvas.toDataURL()).join()"


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_patch_is_chosen_by_mouse_and_by_keyboard(physics: Path, predictive: Path, tmp_path: Path) -> None:
    video = str(sorted((physics / "videos").iterdir())[0])
    show(video, model=str(predictive), what="similarity", out=str(tmp_path), threads=1)
    wrong: list[str] = []
    with playwright.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: wrong.append(request.url) if request.url.startswith("http") else None)
        page.goto((tmp_path / "similarity.html").as_uri())
        page.locator("canvas[tabindex]").first.click(position={"x": 20, "y": 20})
        page.wait_for_function("!document.body.innerText.includes('No patch is chosen')")
        chosen = page.evaluate(PIXELS)
        page.keyboard.press("Escape")
        page.wait_for_function("document.body.innerText.includes('No patch is chosen')")
        assert page.evaluate(PIXELS) != chosen
        page.reload()
        for _ in range(8):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.tagName") == "CANVAS":
                break
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.wait_for_function("!document.body.innerText.includes('No patch is chosen')")
        browser.close()
    assert not wrong
