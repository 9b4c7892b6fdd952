"""The demonstration page: what it is made of, and the page itself in a real browser."""

import json
import math
import os
import re
import socket
import time
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import mtmamba
from mtmamba.inference.images import read_photo
from mtmamba.inference.overlay import overlay
from mtmamba.inference.page import KEPT, launch, predicted
from mtmamba.inference.predictor import Predictor
from mtmamba.inference.sources import SourceError


@pytest.fixture(scope="module")
def predictor():
    torch.manual_seed(0)
    cfg = mtmamba.load_config(["data=nyud", "encoder.pretrained=false", "data.crop_size=[64,96]"])
    return Predictor(mtmamba.build_model(cfg), device="cpu")


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "room.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8)).save(path)
    return path


def test_a_page_s_piece_holds_every_task(predictor, photograph):
    result = predictor(photograph)
    text = overlay(result)
    for task in predictor.tasks:
        assert text.count(f'id="mtmamba-{task.name}"') == 1
    assert "script" not in text
    places = [float(at) for at in re.findall(r"left:([\d.]+)%;[^>]*>[\d.]+ m<", text)]
    assert places == pytest.approx([100 * math.log(metres / 0.5) / math.log(20) for metres in (0.5, 1, 2, 4, 8)], abs=1)
    codes = [json.loads(code.replace("&quot;", '"')) for code in re.findall('data-code="(.*?)"', text)]
    assert [code["kind"] for code in codes] == ["class", "number", "vector", "number"]
    assert codes[0]["names"][:2] == ["wall", "floor"]
    assert codes[1]["low"] == pytest.approx(float(result["depth"].min()))


def test_downloads_hold_everything_and_go_after_a_while(predictor, photograph, tmp_path):
    _, archive = predicted(predictor, read_photo(photograph), tmp_path)
    names = zipfile.ZipFile(archive).namelist()
    _, second = predicted(predictor, read_photo(photograph), tmp_path)
    os.utime(archive, (0, time.time() - 2 * KEPT))
    _, third = predicted(predictor, read_photo(photograph), tmp_path)
    assert {str(path) for path in tmp_path.rglob("*") if path.is_file()} == {second, third}
    assert "raw/depth/photograph.npy" in names
    assert "sheets/photograph.jpg" in names
    assert len(names) == 9


def test_without_gradio_it_is_said(monkeypatch, predictor):
    monkeypatch.setitem(__import__("sys").modules, "gradio", None)
    with pytest.raises(SourceError, match=r"pip install 'mtmamba\[demo\]'"):
        launch(predictor, host="127.0.0.1", port=None, examples=None)


def test_the_terminal_has_the_address_and_no_tips(monkeypatch, predictor, capsys):
    gradio = pytest.importorskip("gradio")
    monkeypatch.setattr(gradio.Blocks, "block_thread", lambda page: page.close(verbose=False))
    launch(predictor, host="127.0.0.1", port=None, examples=None)
    assert re.fullmatch(r"The page is at http://127\.0\.0\.1:\d+/; Ctrl-C ends it\.\n", capsys.readouterr().out)


@pytest.mark.slow
def test_in_a_browser(predictor, photograph, tmp_path):
    """Upload, see every task, read a value, move a slider, find the download; broken files are answered."""
    pytest.importorskip("gradio")
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.common.by import By

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch(predictor, host="127.0.0.1", port=port, examples=str(photograph.parent), block=False)
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1200"):
        options.add_argument(argument)
    try:
        browser = webdriver.Chrome(options=options)
    except Exception as error:  # noqa: BLE001 - whatever a missing browser raises
        pytest.skip(f"no browser: {error}")

    def wait(find):
        end = time.monotonic() + 90
        while not (found := find()):
            assert time.monotonic() < end, browser.page_source[-3000:]
            time.sleep(0.3)
        return found

    try:
        browser.get(f"http://127.0.0.1:{port}")
        wait(lambda: browser.find_elements(By.CSS_SELECTOR, "#photograph input[type=file]"))[0].send_keys(
            str(photograph)
        )
        tasks = wait(lambda: browser.find_elements(By.CSS_SELECTOR, ".mtmamba-task"))
        assert [task.get_attribute("id") for task in tasks] == [f"mtmamba-{task.name}" for task in predictor.tasks]
        depth = next(task for task in tasks if task.get_attribute("id") == "mtmamba-depth")
        move = """
            const figure = arguments[0].querySelector('.mtmamba-figure'), box = figure.getBoundingClientRect();
            figure.dispatchEvent(new MouseEvent('mousemove', {
                clientX: box.left + box.width * 30.5 / 70, clientY: box.top + box.height * 20.5 / 50, bubbles: true}));
            return arguments[0].querySelector('.mtmamba-value').textContent;
        """
        wait(lambda: browser.execute_script("return arguments[0].querySelector('.mtmamba-values').complete", depth))
        metres = float(browser.execute_script(move, depth).removesuffix(" m"))
        assert metres == pytest.approx(float(predictor(photograph)["depth"][20, 30]), abs=0.01)
        shown = """
            return [...arguments[0].querySelectorAll('img')].map(image => image.getBoundingClientRect().height);
        """
        photo, over, values = browser.execute_script(shown, depth)
        assert photo == over > 0 == values
        assert depth.find_element(By.CSS_SELECTOR, ".mtmamba-figure").size["height"] == pytest.approx(photo, abs=1)
        fade = """
            const slider = arguments[0].querySelector('input');
            slider.value = 0.25; slider.dispatchEvent(new Event('input'));
            return arguments[0].querySelector('.mtmamba-over').style.opacity;
        """
        assert browser.execute_script(fade, depth) == "0.25"
        assert wait(lambda: browser.find_elements(By.CSS_SELECTOR, "#download a"))
        (tmp_path / "text.png").write_text("no picture")
        (tmp_path / "cut.png").write_bytes(photograph.read_bytes()[:-2000])
        for name, reason in (("text.png", "another kind of file"), ("cut.png", "image file is truncated")):
            browser.get(f"http://127.0.0.1:{port}")
            wait(lambda: browser.find_elements(By.CSS_SELECTOR, "#photograph input[type=file]"))[0].send_keys(
                str(tmp_path / name)
            )
            (said,) = wait(lambda: browser.find_elements(By.CSS_SELECTOR, "#found [role=alert]"))
            assert said.text.startswith(f"Expected a whole image that Pillow reads in {name}, got {reason}")
    finally:
        browser.quit()
