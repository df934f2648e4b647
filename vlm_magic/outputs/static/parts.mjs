// Small pieces of page: elements, icons, the picture dialog, copying. Knows nothing of turns.

const SVG = "http://www.w3.org/2000/svg";

/** Icons as paths on a 16 × 16 grid, so that no font has to have them. */
const ICONS = {
  stop: "M4 4h8v8H4z",
  copy: "M5 5V2.5h8.5V11H11v2.5H2.5V5zM6.5 5H11v4.5h1V4H6.5zM4 6.5V12h5.5V6.5z",
  check: "M6.2 12.2 2.3 8.3l1.1-1.1 2.8 2.8 6.4-6.4 1.1 1.1z",
  close: "M4.1 3 8 6.9 11.9 3l1.1 1.1L9.1 8l3.9 3.9-1.1 1.1L8 9.1 4.1 13 3 11.9 6.9 8 3 4.1z",
};

/** Make an element: el("p", {class: "x", onclick: f, title: "y"}, ...children). */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value != null) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child != null));
  return node;
}

/** One of the icons; decoration only, the words are beside it or in a label. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  for (const [key, value] of Object.entries({ viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true" })) {
    svg.setAttribute(key, value);
  }
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", ICONS[name]);
  path.setAttribute("fill", "currentColor");
  path.setAttribute("fill-rule", "evenodd");
  svg.append(path);
  return svg;
}

/** A button with an icon; `words` are shown, or only spoken where `quiet`. */
export function button(name, words, onclick, { quiet = false, title = words, ...rest } = {}) {
  const attributes = { type: "button", class: `vlm-button${quiet ? " vlm-quiet" : ""}`, title, onclick, ...rest };
  if (quiet) attributes["aria-label"] = words;
  return el("button", attributes, icon(name), quiet ? null : el("span", {}, words));
}

/** Copy text to the clipboard and say so on the button for a moment. */
export async function copyText(text, from) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea", { class: "vlm-unseen", "aria-hidden": "true" });
    area.value = text;
    from.after(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    from.focus();
  }
  from.querySelector("svg").replaceWith(icon("check"));
  setTimeout(() => from.querySelector("svg")?.replaceWith(icon("copy")), 1500);
}

/** Put a copy button on each finished code block that has none. */
export function addCopyButtons(root) {
  for (const block of root.querySelectorAll(".vlm-code")) {
    if (block.querySelector(".vlm-button")) continue;
    const copy = button("copy", "Copy code", () => copyText(block.querySelector("code").textContent, copy), {
      quiet: true,
    });
    block.append(copy);
  }
}

/** Show a picture large in a dialog; Escape, the button or a click beside it closes it. */
export function openPicture(host, src, label) {
  const image = el("img", { src, alt: label });
  const words = el("figcaption", {}, label);
  const dialog = el(
    "dialog",
    {
      class: "vlm-dialog",
      "aria-label": label,
      onclick: (event) => event.target === dialog && dialog.close(),
      onclose: () => dialog.remove(),
      onkeydown: (event) => event.stopPropagation(),
    },
    el("figure", {}, image, words),
    button("close", "Close", () => dialog.close(), { quiet: true, autofocus: true }),
  );
  host.append(dialog);
  dialog.showModal();
  return {
    dialog,
    replace(newSrc, newLabel) {
      image.src = newSrc;
      words.textContent = newLabel;
    },
  };
}
