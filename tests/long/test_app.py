"""Mode app as a user meets it: the command, and the page in headless Chromium."""

import contextlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from score_sde.modes.train import train
from tests.app.test_studio import CONFIG, settings
from tests.stored import arrays

ROOT = Path(__file__).parent.parent.parent
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)

pytest.importorskip("gradio", reason="gradio is not installed: pip install 'score_sde[app]'")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
if CHROMIUM is None:
    pytest.skip("there is no chromium on this machine", allow_module_level=True)

WAIT = 240_000  # milliseconds, of a compilation on a busy machine


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def command(workdir, *arguments):
    """`python main.py --mode app` on one device, so that a run can be stopped."""
    words = ["--mode", "app", f"--config={workdir}/config_file.py", f"--workdir={workdir}"]
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=1",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, "main.py", *words, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The workdir and the address of a page."""
    workdir = tmp_path_factory.mktemp("run")
    (workdir / "config_file.py").write_text(CONFIG)
    train(settings(), workdir)
    port = free_port()
    process = command(workdir, f"--port={port}")
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "the page is at" in line:
            break
    else:
        pytest.fail("".join(lines))
    yield workdir, f"http://127.0.0.1:{port}/"
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert "Traceback" not in out


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as found:
        browser = found.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, served):
    """Opens the page, in a session of its own each time; no request may leave this machine."""
    left = []
    with contextlib.ExitStack() as stack:

        def open_page():
            context = stack.enter_context(browser.new_context())
            page = context.new_page()
            page.set_default_timeout(WAIT)
            page.on("requestfinished", lambda request: left.append(request.url))
            page.goto(served[1])
            page.wait_for_selector("#draw")
            return page

        yield open_page
    local = re.compile(rf"({re.escape(served[1])}|data:|blob:)")
    assert [url for url in left if not local.match(url)] == []


def fill(page, name, value, tab=0):
    """Types into a control, by the name of its class."""
    page.locator(f".{name} :is(textarea, input)").nth(tab).fill(value)


def told(page, name, text):
    """Waits until a line of the page has a text; the whole line."""
    page.wait_for_function(
        "([id, text]) => document.getElementById(id).innerText.includes(text)", arg=[name, text]
    )
    return page.inner_text(f"#{name}")


def shown_command(page, tab):
    """The command beside a figure, once it is there."""
    page.wait_for_function(
        "n => document.querySelectorAll('.command')[n]?.innerText.includes('--mode')", arg=tab
    )
    lines = page.locator(".command .cm-content").nth(tab).locator(".cm-line").all_inner_texts()
    return "".join(lines)


def newest(workdir):
    return max(path for path in (workdir / "app").iterdir() if path.name.isdigit())


def again(written, workdir, folder):
    """Runs the command that a figure has, in a copy of its workdir."""
    copy = shutil.copytree(workdir, folder, ignore=shutil.ignore_patterns("app"))
    words = shlex.split(written)
    words = [f"--workdir={copy}" if word == f"--workdir={workdir}" else word for word in words]
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=1"}
    subprocess.run(
        words,
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
        check=True,
        capture_output=True,
    )
    return copy


def test_it_draws_compares_and_tells_of_a_mistake(visit, served, tmp_path):
    workdir, _ = served
    page = visit()
    fill(page, "wanted", "3 5")
    page.locator("#compare input").check()
    page.click("#draw")
    told(page, "draw-status", "8 samples")
    assert re.search(r"RMS difference [\d.]+", told(page, "rms", "RMS difference"))
    page.wait_for_selector("#samples img")
    drawn, truth = sorted(path for path in (workdir / "app").iterdir() if path.name.isdigit())[-2:]
    a, b = (arrays(folder / "samples.npz") for folder in (drawn, truth))
    assert a["labels"].tolist() == b["labels"].tolist() == [3, 5] * 4
    written = shown_command(page, 0)
    assert written == (drawn / "command.txt").read_text().strip()
    copy = again(written, workdir, tmp_path / "copy")
    np.testing.assert_array_equal(arrays(copy / "samples.npz")["samples"], a["samples"])

    for classes, steps, message in (
        ("12", "3", "error: sampling.labels: label 12 is none of the 10 classes 0 to 9"),
        ("one", "3", "error: sampling.labels: 'one' is no whole number"),
        ("3", "0", "error: sampling.steps must be from 1 to 1000000, not 0"),
        ("3", "1000000000", "error: sampling.steps must be from 1 to 1000000, not 1000000000"),
    ):
        fill(page, "wanted", classes)
        fill(page, "steps", steps)
        page.click("#draw")
        told(page, "draw-status", message)
    fill(page, "wanted", "4")
    fill(page, "steps", "3")
    page.locator("#compare input").uncheck()
    page.click("#draw")  # the page goes on
    told(page, "draw-status", "8 samples")
    assert arrays(newest(workdir) / "samples.npz")["labels"].tolist() == [4] * 8


def test_it_completes_what_is_painted(visit, served):
    workdir, _ = served
    page = visit()
    page.get_by_role("tab", name="Paint").click()
    page.click("#complete")
    told(page, "paint-status", "error: paint over what is to be drawn anew: nothing is painted")
    canvas = page.locator("#editor canvas").first
    canvas.wait_for()
    time.sleep(2)
    box = canvas.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(middle[0] - 60, middle[1])
    page.mouse.down()
    page.mouse.move(middle[0] + 60, middle[1], steps=12)
    page.mouse.up()
    time.sleep(2)
    fill(page, "steps", "4", tab=1)
    page.click("#complete")
    told(page, "paint-status", "4 results of an image")
    done = arrays(newest(workdir) / "edit.npz")
    known = np.isclose(done["results"][0], done["source"]).all(axis=0)
    assert 0.3 < known.mean() < 1  # the stroke is drawn anew, and what lies around it is kept
    assert not known[3:5, 3:5].all()


def test_a_slider_goes_from_one_image_to_another(visit, served):
    workdir, _ = served
    page = visit()
    page.get_by_role("tab", name="Between").click()
    page.click("#between")
    told(page, "between-status", "9 results of an image")
    done = arrays(newest(workdir) / "edit.npz")
    off = np.abs(done["results"][0, [0, -1]].astype(int) - done["source"].astype(int))
    assert off.mean() < 10  # of 255: its ends are the images, inverted and generated

    def source():
        return page.get_attribute("#one img", "src")

    page.wait_for_selector("#one img")
    before = source()
    page.locator("#place input[type=number]").fill("1")
    page.locator("#place input[type=number]").press("Enter")
    page.wait_for_function("old => document.querySelector('#one img').src != old", arg=before)


def test_two_sessions_at_once_see_their_own(visit, served):
    workdir, _ = served
    pages = [visit(), visit()]
    for i, page in enumerate(pages):
        fill(page, "wanted", str(i + 6))
        fill(page, "steps", "50")
    for page in pages:
        page.click("#draw")
    for i, page in enumerate(pages):
        told(page, "draw-status", "8 samples")
        assert f"labels=({i + 6},)" in shown_command(page, 0)
        name = re.search(r"--workdir=(\S+)", shown_command(page, 0))[1]
        assert name == str(workdir)
    folders = sorted(path for path in (workdir / "app").iterdir() if path.name.isdigit())[-2:]
    found = sorted(arrays(folder / "samples.npz")["labels"][0] for folder in folders)
    assert found == [6, 7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host=0.0.0.0"], "error: --host 0.0.0.0 lets other machines use this model"),
        (["--port=PORT"], "error: --port PORT of 127.0.0.1 cannot be used"),
    ],
)
def test_an_address_that_may_not_or_cannot_be_bound(served, arguments, message):
    workdir, address = served
    port = address.rstrip("/").rpartition(":")[2]
    process = command(workdir, *(a.replace("PORT", port) for a in arguments))
    out, _ = process.communicate(timeout=240)
    assert process.returncode == 1
    assert out.splitlines()[-1].startswith(message.replace("PORT", port))


def test_another_name_is_not_answered(served):
    """As that of a site whose DNS says that it is this machine."""
    import urllib.error
    import urllib.request

    request = urllib.request.Request(served[1], headers={"Host": "example.org"})
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=60)
    assert error.value.code == 400
    error.value.close()  # the error holds the answer's socket
    with urllib.request.urlopen(served[1], timeout=60) as answer:
        assert "default-src 'self'" in answer.headers["content-security-policy"]
