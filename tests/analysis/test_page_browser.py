"""The page in Chromium without a head: what a reader meets who clicks, who types, who has a phone, who prints."""

import base64
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_study import NAME, make, rename, vary
from PIL import Image

from analysis import report
from analysis.failures import NAMES
from study.data import CLASS_NAMES, SIDE, FashionMNIST

pytest.importorskip("selenium", reason="selenium is not installed: pip install -e .[test]")
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
CHROMEDRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER), reason="no Chromium: apt-get install chromium chromium-driver"
)

ARM = "</script><img src=x onerror=alert(1)>"
IMAGES, SEEDS = 1000, 3
TITLES = ["candidate-1", "arm baseline", f"arm {ARM}"]  # by validation accuracy, as made studies have it


class Reader:
    """A browser with the page of a study open, whose name and an arm's name are markup."""

    def __init__(self, folder: Path) -> None:
        vary(make(folder, seeds=SEEDS, images=IMAGES), IMAGES, {"candidate-1": 5, "baseline": 4.5, "augmented": 4})
        rename(folder, "augmented", ARM)
        self.page = report.build(folder, top=2)
        self.failures = pd.read_parquet(folder / "tables" / "failures.parquet")
        self.failures["title"] = ("arm " + self.failures.arm).replace("arm candidate-1", "candidate-1")
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for argument in ("--headless=new", "--no-sandbox", "--force-device-scale-factor=1", "--disable-dev-shm-usage"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
        self.driver = webdriver.Chrome(options, webdriver.ChromeService(CHROMEDRIVER))
        self.events: list[dict[str, Any]] = []

    def open(self, width: int = 1280) -> None:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get(self.page.as_uri())

    def find(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def shown(self, selector: str) -> list[WebElement]:
        visible = "return [...document.querySelectorAll(arguments[0])].filter((e) => e.checkVisibility())"
        found: list[WebElement] = self.driver.execute_script(visible, selector)
        return found

    def cell(self, side: str, label: str, predicted: str) -> WebElement:
        i, j = CLASS_NAMES.index(label), CLASS_NAMES.index(predicted)
        (cell,) = self.shown(f'[data-side={side}] [data-cell$=" {i} {j}"]')
        return cell

    def choose(self, name: str, text: str) -> None:
        Select(self.find(f"#filters [name={name}]")).select_by_visible_text(text)

    @property
    def focused(self) -> WebElement:
        return self.driver.switch_to.active_element

    def counted(self, which: pd.Series) -> None:
        """The line above the gallery says how many errors, on how many images, these rows of `failures` are."""
        rows = self.failures[which]
        assert self.find("#found").text == f"{len(rows):,} errors on {rows.image.nunique():,} images"
        texts = "return [...document.querySelectorAll('#gallery figcaption')].map((e) => e.textContent)"
        captions = self.driver.execute_script(texts)
        assert len(captions) == min(60, len(rows.drop_duplicates(["title", "image", "predicted"])))
        where = set(rows.label.astype(str) + " → " + rows.predicted.astype(str))
        assert {caption.partition(",")[0] for caption in captions} <= where


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    reader = Reader(tmp_path_factory.mktemp("results") / "made")
    yield reader
    reader.driver.quit()


@pytest.fixture(autouse=True)
def opened(reader: Reader) -> Iterator[None]:
    """The page newly opened; after every test, nothing was written to the console, asked for, or thrown up."""
    reader.open()
    yield
    assert reader.driver.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in reader.driver.get_log("performance")]
    assert "Page.javascriptDialogOpening" not in {event["method"] for event in events}
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert reader.page.as_uri() in asked
    assert [url for url in asked if url != reader.page.as_uri() and not url.startswith("data:image/")] == []


def test_names_are_shown_as_they_are(reader: Reader) -> None:
    assert NAME in reader.find("header .name").text
    assert NAME in reader.driver.title
    assert [option.text for option in Select(reader.find("#left")).options] == TITLES
    assert len(reader.driver.find_elements(By.CSS_SELECTOR, "img[onerror], img[src=x]")) == 0
    reader.choose("configuration", TITLES[2])
    assert TITLES[2] in reader.find("#gallery figcaption").text


def test_every_filter_counts_what_the_table_holds(reader: Reader) -> None:
    failures = reader.failures
    everything = pd.Series(True, failures.index)
    reader.counted(everything)
    tried = {
        "label": ("Shirt", failures.label == "Shirt"),
        "predicted": ("Coat", failures.predicted == "Coat"),
        "configuration": ("arm baseline", failures.title == "arm baseline"),
        "category": ("confident errors (above 0.9)", failures.confidence > 0.9),
        "confidence": ("above 0.5", failures.confidence > 0.5),
    }
    for name, (text, which) in tried.items():
        assert 0 < which.sum() < len(failures)
        reader.choose(name, text)
        reader.counted(which)
        reader.choose(name, "any")
    categories = [option.text for option in Select(reader.find("#filters [name=category]")).options][1:]
    for text, name in zip(categories, NAMES, strict=True):
        reader.choose("category", text)
        reader.counted(failures[name])
    reader.choose("category", "any")
    reader.find("#filters [name=suspect]").click()
    reader.counted(failures.label_suspect)
    reader.choose("confidence", "above 0.99")
    reader.choose("configuration", "candidate-1")
    reader.counted(failures.label_suspect & (failures.confidence > 0.99) & (failures.title == "candidate-1"))


def test_filters_by_keyboard(reader: Reader) -> None:
    failures = reader.failures
    reader.find("#filters select").send_keys("Shirt")  # as one types in a list of options
    reader.counted(failures.label == "Shirt")
    reader.focused.send_keys(Keys.TAB)
    assert reader.focused.get_attribute("name") == "predicted"
    reader.focused.send_keys(Keys.ARROW_DOWN)
    which = (failures.label == "Shirt") & (failures.predicted == "T-shirt/top")
    reader.counted(which)
    for _ in range(4):
        reader.focused.send_keys(Keys.TAB)
    assert reader.focused.get_attribute("name") == "suspect"
    reader.focused.send_keys(Keys.SPACE)
    reader.counted(which & failures.label_suspect)


def test_a_cell_opens_its_images_by_click(reader: Reader) -> None:
    reader.choose("confidence", "above 0.99")
    reader.cell("right", "Shirt", "Coat").click()
    failures = reader.failures
    reader.counted((failures.label == "Shirt") & (failures.predicted == "Coat") & (failures.title == "arm baseline"))
    top = reader.driver.execute_script("return arguments[0].getBoundingClientRect().top", reader.find("#errors"))
    assert -1 < top < 450, "the gallery has come into view, to the pixel"


def test_cells_by_keyboard(reader: Reader) -> None:
    reader.find("#right").send_keys(Keys.TAB)
    assert reader.focused.get_attribute("data-cell") == "0 0 0", "Tab leads to one cell of a matrix"
    for key in (Keys.ARROW_UP, Keys.ARROW_LEFT, *[Keys.ARROW_DOWN] * 4, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT):
        reader.focused.send_keys(key)
    assert reader.focused.get_attribute("data-cell") == "0 4 2", "at the edge it stays"
    for _ in range(3):
        reader.focused.send_keys(Keys.TAB)
    assert reader.focused.get_attribute("data-cell") == "1 0 0", "over the report and its link to the other matrix"
    for _ in range(3):
        ActionChains(reader.driver).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).perform()
    assert reader.focused.get_attribute("data-cell") == "0 4 2", "which remembers where one was"
    reader.focused.send_keys(Keys.ENTER)
    failures = reader.failures
    reader.counted((failures.label == "Coat") & (failures.predicted == "Pullover") & (failures.title == "candidate-1"))
    assert reader.focused.get_attribute("id") == "found", "a screen reader says how many there are"


def test_more_errors_are_shown_on_demand(reader: Reader) -> None:
    entries = len(reader.failures.drop_duplicates(["title", "image", "predicted"]))
    assert entries > 180
    more = reader.find("#more")
    assert more.text == f"Show more (60 of {entries:,} shown)"
    more.click()
    more.send_keys(Keys.ENTER)
    assert len(reader.shown("#gallery figure")) == 180
    assert more.text == f"Show more (180 of {entries:,} shown)"
    reader.cell("left", "Bag", "Dress").click()
    assert not more.is_displayed(), "there are no more of these"


def test_any_two_stand_side_by_side(reader: Reader) -> None:
    def there() -> tuple[list[str], list[str]]:
        pairs = [p for p in reader.shown("[data-pair]") if p.get_attribute("data-pair") != "none"]
        heads = [h.text for h in reader.shown("[data-matrix] h3")]
        return heads, [p.find_element(By.TAG_NAME, "h3").text for p in pairs]

    both = [f"{title}, 3 seeds" for title in TITLES]
    assert there() == (both[:2], ["arm baseline and candidate-1"])
    Select(reader.find("#left")).select_by_visible_text(TITLES[2])
    assert there() == ([both[2], both[1]], []), "two were compared: --top 2"
    assert "share no seed, or are not among the best" in reader.find("[data-pair=none]").text
    counts = [int(b.get_attribute("data-count") or "") for b in reader.shown("[data-side=left] [data-cell]")]
    assert sum(counts) == IMAGES * SEEDS
    assert sum(counts) - sum(counts[::11]) == (reader.failures.title == TITLES[2]).sum()
    reader.find("#left").send_keys(Keys.ARROW_UP, Keys.ARROW_UP)
    assert there() == (both[:2], ["arm baseline and candidate-1"]), "by keyboard"
    Select(reader.find("#right")).select_by_visible_text("candidate-1")
    assert there() == ([both[0], both[0]], []), "one beside itself"


def test_a_tile_shows_the_image_that_it_names(reader: Reader, fashion_mnist: FashionMNIST) -> None:
    reader.choose("label", "Bag")
    for tile in reader.shown(".tile")[:3]:
        number = int(str(tile.get_attribute("aria-label")).split()[2].rstrip(","))
        png = Image.open(io.BytesIO(tile.screenshot_as_png)).convert("L")
        seen = np.asarray(png.resize((SIDE, SIDE), Image.Resampling.BOX), float)
        difference = [np.abs(seen - image).mean() for image in fashion_mnist.test_images[:IMAGES]]
        assert np.argmin(difference) == number
        assert min(difference) < 5


@pytest.mark.parametrize("width", [390, 320])
def test_a_phone_needs_no_sideways_scroll(reader: Reader, width: int) -> None:
    reader.open(width)
    assert reader.driver.execute_script("return innerWidth") == width
    assert reader.driver.execute_script("return document.documentElement.scrollWidth") <= width
    reader.choose("configuration", TITLES[2])
    reader.cell("left", "Shirt", "Coat").click()
    assert reader.driver.execute_script("return document.documentElement.scrollWidth") <= width
    sizes = "return [...document.querySelectorAll('.matrix [data-cell]')].map((b) => b.scrollWidth - b.clientWidth)"
    assert max(reader.driver.execute_script(sizes)) <= 0, "numbers fit into their cells"


def test_headings_are_in_order_and_pictures_have_words(reader: Reader) -> None:
    levels = [int(h.tag_name[1]) for h in reader.shown("h1, h2, h3, h4, h5, h6")]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert max(np.diff(levels)) <= 1, "no level is left out"
    for image in reader.driver.find_elements(By.CSS_SELECTOR, "img"):
        assert len(str(image.get_attribute("alt"))) > 10
    pictures = reader.driver.find_elements(By.CSS_SELECTOR, ".png")
    assert len(pictures) > 20
    for picture in pictures[:20]:
        assert picture.get_attribute("role") == "img"
        assert len(str(picture.get_attribute("aria-label"))) > 10
        assert picture.value_of_css_property("background-image").startswith('url("data:image/png')
    unnamed = "return [...document.querySelectorAll('select, input')].filter((e) => !e.closest('label')).length"
    assert reader.driver.execute_script(unnamed) == 0


def test_it_prints(reader: Reader) -> None:
    pdf = base64.b64decode(reader.driver.execute_cdp_cmd("Page.printToPDF", {"printBackground": True})["data"])
    assert pdf.startswith(b"%PDF")
    assert 5 < pdf.count(b"/Type /Page\n") < 60
