"""The panel's own page in a real Chromium, without JupyterLab around it: quick, for looks, keys and roles.

    page = panel_page(browser, ChatPanel("chat", exchanges=[…], title="Conversation main"))
    page.evaluate("message => hear(message)", {"type": "notice", "text": "Hello"})

The model of the widget is a stand-in: what the page sends to the kernel is in ``window.sent``.
"""

from __future__ import annotations

from typing import Any

_LOAD = """async ([code, state]) => {
  const url = URL.createObjectURL(new Blob([code], {type: "text/javascript"}));
  const panel = (await import(url)).default;
  const listeners = {};
  window.sent = [];
  const model = {
    get: (name) => state[name],
    on: (event, listener) => (listeners[event] ??= []).push(listener),
    off: () => {},
    send: (message) => window.sent.push(message),
  };
  window.hear = (message) => listeners["msg:custom"].forEach((listener) => listener(message, []));
  panel.initialize?.({model});
  panel.render({model, el: document.querySelector("#host")});
}"""


def panel_page(browser: Any, panel: Any, **options: Any) -> Any:
    """A page that shows this panel.

    Args:
        browser: a running Chromium.
        panel: a `ChatPanel`, with what it can do and its turns, or a `StopBar`.
        options: of the browser's context, such as ``has_touch``.
    """
    page = browser.new_context(viewport={"width": 1000, "height": 800}, **options).new_page()
    values = {name: getattr(panel, name) for name in panel.trait_names(sync=True) if name != "layout"}
    state = {
        name: value for name, value in values.items() if isinstance(value, (str, list, dict, int, float))
    }
    page.set_content('<!doctype html><html lang="en"><title>panel</title><main id="host"></main>')
    page.evaluate(_LOAD, [panel._esm, {**state, "turns": getattr(panel, "snapshot", list)()}])
    return page
