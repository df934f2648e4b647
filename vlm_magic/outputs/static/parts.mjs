// Small pieces of page: elements, icons, the picture dialog, copying. Knows nothing of turns.
import { isForNotebook } from "./state.mjs";

const SVG = "http://www.w3.org/2000/svg";

/** Icons as paths on a 16 × 16 grid, so that no font has to have them. */
const ICONS = {
  stop: "M4 4h8v8H4z",
  copy: "M5 1.500h8A1.500 1.500 0 0 1 14.500 3v8A1.500 1.500 0 0 1 13 12.500h-1.500V11H13V3H5v1.500H3.500V3A1.500 1.500 0 0 1 5 1.500zM3 5h6A1.500 1.500 0 0 1 10.500 6.500v7A1.500 1.500 0 0 1 9 15H3a1.500 1.500 0 0 1-1.500-1.500v-7A1.500 1.500 0 0 1 3 5zm0 1.500v7h6v-7z",
  clear: "M2 3.500h12V5H2zM2 7.200h7.500v1.500H2zM2 11h5v1.500H2zM10.200 9.800l1-1 1.800 1.800 1.800-1.800 1 1-1.800 1.800 1.800 1.800-1 1-1.800-1.800-1.800 1.800-1-1 1.800-1.800z",
  down: "M7.200 2.500h1.600v8.300l3.300-3.300 1.100 1.100L8 13.800 2.800 8.600l1.100-1.100 3.300 3.300z",
  why: "M8 1.500a6.500 6.500 0 1 1 0 13 6.500 6.500 0 0 1 0-13zM8 3a5 5 0 1 0 0 10A5 5 0 0 0 8 3zM7.200 10.200h1.600v1.600H7.200zM8 4.200c1.500 0 2.600.9 2.600 2.300 0 1.700-1.800 1.800-1.800 3H7.200c0-2 1.800-2 1.800-2.900 0-.5-.4-.9-1-.9s-1 .4-1.100 1H5.400C5.500 5.100 6.500 4.200 8 4.200z",
  check: "M6.2 12.2 2.3 8.3l1.1-1.1 2.8 2.8 6.4-6.4 1.1 1.1z",
  close: "M4.1 3 8 6.9 11.9 3l1.1 1.1L9.1 8l3.9 3.9-1.1 1.1L8 9.1 4.1 13 3 11.9 6.9 8 3 4.1z",
  send: "M8 2.2l5.2 5.2-1.1 1.1-3.3-3.3V14H7.2V5.2L3.9 8.5 2.8 7.4z",
  picture: "M2 3h12v10H2zM3.5 4.5v5.2l2.7-2.6 2.8 2.7 1.5-1.4 2 1.8V4.5zM10.6 5.6a1.1 1.1 0 1 1 0 2.2 1.1 1.1 0 0 1 0-2.2z",
  redo: "M8 3a5 5 0 0 1 3.6 1.5L13 3v4.2H8.8l1.7-1.7A3.5 3.5 0 1 0 11.4 9h1.5A5 5 0 1 1 8 3z",
  edit: "M11.3 2 14 4.7 5.7 13H3v-2.7zM11.3 4 4.5 10.9v.6h.6L12 4.7z",
  trash: "M6 2h4l.6 1H14v1.5h-1l-.7 9.5H3.7L3 4.5H2V3h3.4zM4.5 4.5 5.1 12.5h5.8l.6-8zM6.3 6h1.2v5H6.3zM8.6 6h1.2v5H8.6z",
  hide: "M2.6 1.6 14.4 13.4l-1 1-2.3-2.3A7.6 7.6 0 0 1 1 8a8.400 8.400 0 0 1 2.600-3.300L1.600 2.600zM4.700 5.800A6 6 0 0 0 2.700 8a5.900 5.900 0 0 0 7.200 2.900L8.700 9.700A2 2 0 0 1 6.300 7.300zM8 3.500A7.600 7.600 0 0 1 15 8a8 8 0 0 1-1.800 2.600l-1-1A6.300 6.300 0 0 0 13.300 8 5.900 5.900 0 0 0 7.200 5.100L6 3.800a7 7 0 0 1 2-.3z",
  show: "M8 3.500A7.600 7.600 0 0 1 15 8 7.600 7.600 0 0 1 1 8a7.600 7.600 0 0 1 7-4.500zM8 5A5.900 5.900 0 0 0 2.700 8a5.900 5.900 0 0 0 10.600 0A5.900 5.900 0 0 0 8 5zm0 1a2 2 0 1 1 0 4 2 2 0 0 1 0-4z",
  settings: "M2 4h5.300a2 2 0 0 1 3.400 0H14v1.500h-3.300a2 2 0 0 1-3.400 0H2zM2 10.500h1.300a2 2 0 0 1 3.400 0H14V12H6.700a2 2 0 0 1-3.400 0H2z",
  chat: "M2 2.500h12V11H7l-3.500 3v-3H2zM3.500 4v5.500H5v1.300l1.500-1.300h6V4z",
  more: "M2 3.500h8V5H2zM2 7.200h12v1.500H2zM2 11h5v1.500H2zM9.500 10.200l3.500 2.100-3.500 2.100z",
  open: "M3.300 5.500 8 10.200l4.700-4.700 1 1L8 12.300 2.300 6.500z",
  add: "M7.200 2.500h1.600v4.700h4.700v1.600H8.800v4.700H7.200V8.800H2.500V7.200h4.700z",
  save: "M7.200 2h1.600v6.300l2.300-2.300 1.100 1.100L8 11.300 3.800 7.100 4.900 6l2.300 2.300zM2.500 12.500h11V14h-11z",
  crop: "M4 1.500h1.500V4H12v6.500h2.500V12H12v2.500h-1.500V12H4V5.500H1.500V4H4zM5.500 5.500v5h5v-5z",
  back: "M10 3l1.100 1.100L7.200 8l3.900 3.900L10 13 5 8z",
  forward: "M6 3 4.900 4.100 8.800 8l-3.900 3.900L6 13l5-5z",
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

/** Keep what is typed here from the notebook's shortcuts, but for chords that are not about text. */
export function keepKeys(node) {
  for (const kind of ["keydown", "keyup", "keypress"]) {
    node.addEventListener(kind, (event) => isForNotebook(event) || event.stopPropagation());
  }
  for (const kind of ["copy", "cut", "paste"]) node.addEventListener(kind, (event) => event.stopPropagation());
}

/** Give the focus back to the notebook: its cell gets it, in command mode. */
export function leave(node) {
  const cell = node.closest(".jp-Cell") ?? node.closest(".jp-Notebook");
  document.activeElement?.blur();
  if (cell && !cell.hasAttribute("tabindex")) cell.tabIndex = -1;
  cell?.focus({ preventScroll: true });
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
  const dialog = el(
    "dialog",
    {
      class: "vlm-dialog",
      "aria-label": label,
      onclick: (event) => event.target === dialog && dialog.close(),
      onclose: () => dialog.remove(),
      onkeydown: (event) => event.stopPropagation(),
    },
    el("figure", {}, image, el("figcaption", {}, label)),
    button("close", "Close", () => dialog.close(), { quiet: true, autofocus: true }),
  );
  host.append(dialog);
  dialog.showModal();
  return {
    dialog,
    replace(newSrc) {
      image.src = newSrc;
    },
  };
}
