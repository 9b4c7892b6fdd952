"""The report in a browser: tables are sorted, curves say values, pictures are compared, nothing is fetched."""

import csv
import json

import pytest

import mtmamba
from fake_runs import write_logs, write_run
from mtmamba.report.workflow import report

ORDER = """return [...document.querySelectorAll('#t2 tbody tr')].map(row => row.cells[3].textContent)"""
CLICK = """[...document.querySelectorAll('#t2 thead button')][3].click()"""
POINT = """
    const chart = document.querySelector('svg[data-points]'), box = chart.getBoundingClientRect();
    const [x, y, step] = JSON.parse(chart.dataset.points)[0][1][arguments[0]];
    chart.dispatchEvent(new PointerEvent('pointermove', {bubbles: true,
        clientX: box.left + x * box.width / chart.viewBox.baseVal.width, clientY: box.top + 5}));
    return [document.getElementById('tip').textContent, step];
"""
SLIDE = """
    const slider = document.querySelector('#compare input');
    slider.value = 20; slider.dispatchEvent(new Event('input'));
    const [below, above] = document.querySelectorAll('#compare img');
    return [above.style.clipPath, below.src === above.src, below.naturalWidth];
"""
WIDTHS = "return [document.documentElement.scrollWidth, window.innerWidth]"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report's page: two demos with curves and pictures."""
    folder = tmp_path_factory.mktemp("page")
    for number, values in enumerate(({"RMSE": 0.8}, {"RMSE": 11.5})):
        loss = {"edge": {"loss": 0.125 * (number + 1)}}
        overrides = f"experiment=demo decoder=stm{number + 1}"
        write_logs(write_run(folder / f"logs/{number}", overrides, {"depth": values, **loss}), seed=number)
    report(mtmamba.load_config([f"runs={folder}/logs", f"out={folder}/report"], "report"))
    return folder / "report/report.html"


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    try:
        browser = webdriver.Chrome(options=options)
    except Exception as error:  # noqa: BLE001 - whatever a missing browser raises
        pytest.skip(f"no browser: {error}")
    yield browser
    browser.quit()


def look(browser, page, width, scheme):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", features)
    browser.get(page.as_uri())


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 400])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_works(browser, page, width, scheme, tmp_path):
    look(browser, page, width, scheme)
    before = browser.execute_script(ORDER)
    assert sorted(before) != before, "the table is sorted already"
    orders = []
    for _ in range(3):
        browser.execute_script(CLICK)
        orders.append(browser.execute_script(ORDER))
    ascending = sorted(before, key=lambda text: float(text.split()[0]))
    assert orders == [ascending, ascending[::-1], before]

    with (page.parents[1] / "logs/0/metrics.csv").open() as file:
        logged = {int(row["step"]): row["train/loss"] for row in csv.DictReader(file)}
    said, step = browser.execute_script(POINT, 3)
    assert f"{step}: {float(logged[step]):.5g}" in said

    clip, same, natural = browser.execute_script(SLIDE)
    assert clip.startswith("inset(0px 80% 0px 0px")
    assert not same
    assert natural == 300

    content, window = browser.execute_script(WIDTHS)
    assert content <= window == width
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [it["params"]["request"]["url"] for it in messages if it["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in asked
    assert all(url == page.as_uri() or url.startswith("data:image/jpeg;base64,") for url in asked)
    browser.save_screenshot(str(tmp_path / f"{width}_{scheme}.png"))
    colour = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert colour == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(20, 23, 26)")
