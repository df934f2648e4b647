"""A real JupyterLab in a real Chromium, for tests: started on a free port of this machine, stopped by itself.

    with running_lab(folder) as lab, browser_page(lab, "x.ipynb") as page:
        run_all(page)
        wait_idle(page)
        save(page)

Where Chromium or Playwright is missing the tests are skipped with a printed reason; in CI that is a failure.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SHOTS = Path(os.environ.get("VLM_MAGIC_SCREENSHOTS", "") or os.devnull)
TIMEOUT_MS = 120_000  # two busy cores are slow; nothing here waits longer without a reason

_CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-domain-reliability",
    "--disable-sync",
    "--no-first-run",
    "--no-pings",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
]


@dataclass
class Lab:
    """A running server."""

    url: str
    token: str
    folder: Path
    environment: dict[str, str] = field(repr=False, default_factory=dict)
    app: str = "lab"

    def get(self, path: str) -> Any:
        """A GET of the server's API, decoded."""
        request = urllib.request.Request(
            f"{self.url}/{path}", headers={"Authorization": f"token {self.token}"}
        )
        with urllib.request.urlopen(request, timeout=20) as response:
            return json.load(response)


def need_browser() -> str:
    """The path of Chromium; skips the test without it, or fails in CI."""
    reason = ""
    chromium = (
        os.environ.get("VLM_MAGIC_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    )
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        reason = "playwright is not installed"
    if not reason and not chromium:
        reason = "chromium is not installed"
    if reason and os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"{reason}, and CI must run the browser tests")
    if reason:
        pytest.skip(reason)
    return str(chromium)


def need_part(variable: str, what: str) -> Path:
    """What a variable of the environment names; skips the test without it, or fails in CI.

    ``.ci/run`` fetches these parts; why it could not is in ``<variable>_MISSING``.
    """
    path = Path(os.environ.get(variable, ""))
    if os.environ.get(variable) and path.exists():
        return path
    why = os.environ.get(f"{variable}_MISSING") or "it is not set, or nothing is there"
    reason = f"{variable} names no {what}: {why}"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(f"{reason}; CI must run this test")
    pytest.skip(reason)


def _free_port() -> int:
    """Below those that Linux gives out by itself (32768 and up), so still free when the server opens it."""
    for port in secrets.SystemRandom().sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port between 20000 and 32000")


@contextmanager
def running_lab(
    folder: Path,
    *,
    app: str = "lab",
    extra_path: Sequence[Path] = (),
    environment: dict[str, str] | None = None,
    kernels: dict[str, Path] | None = None,
) -> Iterator[Lab]:
    """Start JupyterLab (or ``app="notebook"``) in ``folder`` with settings of its own; stop it afterwards.

    Args:
        folder: the root that the server shows.
        app: "lab" or "notebook".
        extra_path: folders that kernels can import from, beside this repository and tests/support.
        environment: further variables for server and kernels.
        kernels: more kernels by name: this Python with another folder of packages before its own.
    """
    need_browser()
    port, token = _free_port(), secrets.token_hex(16)
    own = folder.parent / f".jupyter-{port}"
    paths = [*extra_path, REPOSITORY, REPOSITORY / "tests" / "support"]
    env = dict(os.environ)
    env.update(
        JUPYTER_CONFIG_DIR=str(own / "config"),
        JUPYTER_DATA_DIR=str(own / "data"),
        JUPYTER_RUNTIME_DIR=str(own / "runtime"),
        JUPYTERLAB_SETTINGS_DIR=str(own / "settings"),
        JUPYTERLAB_WORKSPACES_DIR=str(own / "workspaces"),
        HF_HUB_OFFLINE="1",
        PYTHONPATH=os.pathsep.join(map(str, paths)),
    )
    env.pop("JUPYTER_PLATFORM_DIRS", None)
    env.update(environment or {})
    log = own / "server.log"
    news = own / "settings" / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    command = [
        *(sys.executable, "-m", "jupyter", app, "--no-browser", "--allow-root", "--ip=127.0.0.1"),
        *(f"--port={port}", "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"),
        *(f"--ServerApp.root_dir={folder}", "--LabApp.expose_app_in_browser=True"),
        *("--JupyterNotebookApp.expose_app_in_browser=True", "--LabApp.news_url="),
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
    ]
    for name, packages in (kernels or {}).items():
        _write_kernel(own / "data" / "kernels" / name, name, [packages, *paths])
    with log.open("wb") as out:
        server = subprocess.Popen(command, env=env, stdout=out, stderr=out, cwd=folder)
    lab = Lab(f"http://127.0.0.1:{port}", token, folder, env, app)
    try:
        _wait_for(lab, server, log)
        yield lab
    finally:
        server.terminate()
        try:
            server.wait(timeout=15)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _write_kernel(folder: Path, name: str, path: Sequence[Path]) -> None:
    folder.mkdir(parents=True)
    spec = {
        "argv": [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": name,
        "language": "python",
        "env": {"PYTHONPATH": os.pathsep.join(map(str, path))},
    }
    (folder / "kernel.json").write_text(json.dumps(spec))


def _wait_for(lab: Lab, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        if server.poll() is not None:
            break
        try:
            lab.get("api/status")
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.1)
        else:
            return
    raise RuntimeError(f"the server did not start:\n{log.read_text(errors='replace')[-2000:]}")


@contextmanager
def running_browser() -> Iterator[Any]:
    """A Chromium that can reach this machine alone."""
    chromium = need_browser()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium, headless=True, args=_CHROMIUM_ARGUMENTS
        )
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def browser_page(
    lab: Lab,
    notebook: str,
    *,
    browser: Any = None,
    width_px: int = 1100,
    height_px: int = 900,
    dark: bool = False,
    block: str = "",
) -> Iterator[Any]:
    """A page with ``notebook`` open and its kernel idle; ``page.problems`` lists errors of its console.

    Args:
        lab: the server.
        notebook: its path there.
        browser: a running browser; None starts one.
        width_px: width of the window.
        height_px: height of the window.
        dark: whether JupyterLab's dark theme is used.
        block: a pattern of addresses that do not answer, such as those of an extension.
    """
    if browser is None:
        options: dict[str, Any] = {"width_px": width_px, "height_px": height_px, "dark": dark, "block": block}
        with running_browser() as own, browser_page(lab, notebook, browser=own, **options) as page:
            yield page
        return
    context = browser.new_context(viewport={"width": width_px, "height": height_px})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    page.problems = []
    page.requests = []
    if block:
        page.route(block, lambda route: route.abort())
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    try:
        open_notebook(page, lab, notebook)
        if dark:
            page.evaluate("jupyterapp.commands.execute('apputils:change-theme', {theme: 'JupyterLab Dark'})")
            page.wait_for_selector("body[data-jp-theme-light=false]", state="attached")
        yield page
    finally:
        context.close()


def open_notebook(page: Any, lab: Lab, notebook: str) -> None:
    """Open a notebook and wait for its kernel."""
    where = "lab/tree" if lab.app == "lab" else "notebooks"
    page.goto(f"{lab.url}/{where}/{notebook}?token={lab.token}&reset")
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    wait_idle(page)


_PANEL = "jupyterapp.shell.currentWidget"
_IDLE = f"""() => {{
  const kernel = window.jupyterapp && {_PANEL} && {_PANEL}.context
    && {_PANEL}.context.sessionContext.session && {_PANEL}.context.sessionContext.session.kernel;
  return !!kernel && kernel.connectionStatus === "connected" && kernel.status === "idle";
}}"""


def wait_idle(page: Any, timeout_ms: int = TIMEOUT_MS) -> None:
    """Wait until the kernel is idle and no cell waits to run."""
    page.wait_for_function(_IDLE, timeout=timeout_ms)
    page.wait_for_function(
        "![...document.querySelectorAll('.jp-InputPrompt')].some(p => p.textContent.includes('*'))",
        timeout=timeout_ms,
    )


def command(page: Any, name: str) -> None:
    """Run one of JupyterLab's commands and wait for it."""
    page.evaluate("name => jupyterapp.commands.execute(name).then(() => null)", name)


def run_all(page: Any, *, wait: bool = True) -> None:
    """Run all cells."""
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")
    if wait:
        page.wait_for_timeout(100)
        wait_idle(page)


def run_cell(page: Any, index: int, *, wait: bool = True) -> None:
    """Run the cell at ``index``."""
    page.evaluate(
        f"""index => {{
          const notebook = {_PANEL}.content;
          notebook.activeCellIndex = index;
          notebook.deselectAll();
          jupyterapp.commands.execute('notebook:run-cell');
        }}""",
        index,
    )
    if wait:
        page.wait_for_timeout(100)
        wait_idle(page)


def set_cell(page: Any, index: int, source: str) -> None:
    """Write into the cell at ``index``."""
    page.evaluate(
        f"([index, source]) => {_PANEL}.content.widgets[index].model.sharedModel.setSource(source)",
        [index, source],
    )


def save(page: Any) -> None:
    """Save the notebook to disk."""
    command(page, "docmanager:save")
    page.wait_for_function(f"!{_PANEL}.context.model.dirty")


def output_text(page: Any, index: int) -> str:
    """What a person reads below the cell at ``index``."""
    return str(page.locator(".jp-Cell").nth(index).locator(".jp-Cell-outputArea").inner_text())


def output_area(page: Any, index: int) -> Any:
    """What stands below the cell at ``index``, to be waited for by `shows`, `lacks` and `reads`."""
    return page.locator(".jp-Cell").nth(index).locator(".jp-Cell-outputArea")


# A page draws a moment after the kernel has spoken: what is looked for is waited for.
_PATIENCE_MS = 30_000


def shows(locator: Any, words: str) -> None:
    """A person reads ``words`` there, now or soon."""
    from playwright.sync_api import expect

    expect(locator).to_contain_text(words, use_inner_text=True, timeout=_PATIENCE_MS)


def lacks(locator: Any, words: str) -> None:
    """A person does not read ``words`` there, or soon no longer."""
    from playwright.sync_api import expect

    expect(locator).not_to_contain_text(words, use_inner_text=True, timeout=_PATIENCE_MS)


def reads(locator: Any, words: str | re.Pattern[str]) -> None:
    """A person reads nothing but ``words`` there, now or soon."""
    from playwright.sync_api import expect

    expect(locator).to_have_text(words, use_inner_text=True, timeout=_PATIENCE_MS)


def screenshot(page: Any, path: Path, selector: str = "") -> Path:
    """A picture of the page, or of one element."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if selector:
        page.locator(selector).first.screenshot(path=str(path))
    else:
        page.screenshot(path=str(path))
    return path


def shoot(page: Any, name: str, selector: str = "") -> None:
    """Keep a picture where somebody asked for pictures, by VLM_MAGIC_SCREENSHOTS=FOLDER."""
    if SHOTS.is_dir():
        screenshot(page, SHOTS / f"{name}.png", selector)


def check_accessible(page: Any, where: str) -> None:
    """Nothing is wrong there by axe, in the light theme and in the dark one."""
    axe = need_part("VLM_MAGIC_AXE", "axe.min.js of axe-core")
    page.add_script_tag(path=axe)
    for theme, is_light in (("JupyterLab Dark", "false"), ("JupyterLab Light", "true")):
        page.evaluate("name => jupyterapp.commands.execute('apputils:change-theme', {theme: name})", theme)
        page.wait_for_selector(f"body[data-jp-theme-light={is_light}]", state="attached")
        page.wait_for_timeout(400)  # transitions of colours
        run = "where => axe.run({include: [[where]]}, {resultTypes: ['violations']})"
        found = page.evaluate(run, where)["violations"]
        assert [f"{v['id']}: {n['html'][:120]}" for v in found for n in v["nodes"]] == []
        shoot(page, f"axe-{where.strip('.').split('.')[-1]}-{'light' if is_light == 'true' else 'dark'}")


def asked(page: Any, cell: int, code: str) -> str:
    """Run ``code`` in a cell that is not in sight of the panel; what it prints."""
    set_cell(page, cell, code)
    run_cell(page, cell)
    return str(output_area(page, cell).inner_text()).strip()


def write_notebook(path: Path, *cells: str, kernel: str = "python3") -> Path:
    """A notebook of code cells, with ids that a kernel can tell apart."""
    notebook = {
        "cells": [
            {
                "cell_type": "code",
                "id": f"cell-{n}",
                "metadata": {},
                "source": source,
                "outputs": [],
                "execution_count": None,
            }
            for n, source in enumerate(cells)
        ],
        "metadata": {"kernelspec": {"name": kernel, "display_name": kernel, "language": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    path.write_text(json.dumps(notebook))
    return path
