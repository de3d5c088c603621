"""The MLflow page of a published study, as a reader sees it: a real server, a real browser."""

from pathlib import Path

import pytest
from mlflow_server import MlflowServer
from tracking_study import fake_results, tiny_study

from noah.tracking import publish

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'noah[test]'")
CHROMIUM = Path("/usr/bin/chromium")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not CHROMIUM.exists(), reason=f"{CHROMIUM} is missing: apt-get install chromium"),
]


@pytest.fixture
def study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
        monkeypatch.delenv(name, raising=False)
    study = tiny_study(tmp_path)
    fake_results(study)
    return study


@pytest.fixture
def address(study):
    """Of a server as `noah ui` starts it."""
    with MlflowServer(Path(".")) as server:
        yield server.address


@pytest.fixture
def page():
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        page = browser.new_page(viewport={"width": 1500, "height": 950})
        page.set_default_timeout(30_000)
        yield page
        browser.close()


def test_the_page_shows_runs_under_their_backbone_and_a_curve_per_metric(study, address, page, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    tracked = publish(study)
    assert (tracked["status"], len(tracked["runs"])) == ("ok", len(study.runs))

    page.goto(address, wait_until="load")
    page.get_by_text("Model training", exact=True).first.click()  # the page opens on tools for language models
    page.get_by_role("link", name="tiny", exact=True).first.click()
    for name in ("tables and figures", "mobilenetv2-w0.35 on digits", "deit_tiny-d6-w0.5 on digits"):
        page.get_by_role("link", name=name, exact=True).wait_for()
    assert page.get_by_text("noah/s0 mobilenetv2-w0.35").count() == 0
    row = page.get_by_role("row").filter(has_text="mobilenetv2-w0.35 on digits")
    row.get_by_role("button").first.click()
    page.get_by_role("link", name="noah/s0 mobilenetv2-w0.35", exact=True).wait_for()
    page.screenshot(path=tmp_path / "experiment.png")

    page.get_by_role("link", name="noah/s0 mobilenetv2-w0.35", exact=True).click()
    page.get_by_role("tab", name="Model metrics").click()
    page.get_by_placeholder("Search metric charts").fill("train_loss")  # charts below the fold are not drawn
    card = page.get_by_test_id("experiment-view-compare-runs-card").filter(has_text="train_loss").first
    card.locator(".js-plotly-plot .scatterlayer .point").nth(2).wait_for()
    assert card.locator(".js-plotly-plot .scatterlayer .point").count() == 3
    page.screenshot(path=tmp_path / "run.png")
