// The menus in the head of a whole conversation: which conversation, which model.
import { button, el, icon, keepKeys } from "./parts.mjs";

const STEPS = { ArrowDown: 1, ArrowUp: -1 };

/** A button that opens a menu; what is in the menu is asked for each time it opens. */
class Dropdown {
  /** `fill` gives {items: nodes with role menuitem…, note: words below them}. */
  constructor(label, fill) {
    this.fill = fill;
    this.words = el("span", {});
    this.opener = el(
      "button",
      { type: "button", class: "vlm-button vlm-pick", "aria-haspopup": "menu", "aria-expanded": "false", title: label },
      el("span", { class: "vlm-unseen" }, `${label}: `),
      this.words,
      icon("open"),
    );
    this.list = el("div", { role: "menu", "aria-label": label });
    this.note = el("p", { class: "vlm-menu-note" });
    this.pop = el("div", { class: "vlm-menu", popover: "auto" }, this.list, this.note);
    this.node = el("span", { class: "vlm-dropdown" }, this.opener, this.pop);
    this.opener.addEventListener("click", () => this.open());
    this.opener.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowDown") return;
      event.preventDefault();
      this.open();
    });
    this.pop.addEventListener("toggle", (event) => {
      this.opener.setAttribute("aria-expanded", String(event.newState === "open"));
    });
    this.list.addEventListener("keydown", (event) => this.key(event));
    keepKeys(this.pop);
  }

  say(words) {
    this.words.textContent = words;
  }

  open() {
    this.show(this.fill());
    const { left, bottom } = this.opener.getBoundingClientRect();
    this.pop.showPopover();
    const { offsetWidth: width, offsetHeight: height } = this.pop;
    const view = this.pop.ownerDocument.documentElement;
    this.pop.style.left = `${Math.max(8, Math.min(left, view.clientWidth - width - 8))}px`;
    this.pop.style.top = `${Math.max(8, Math.min(bottom + 4, view.clientHeight - height - 8))}px`;
    (this.list.querySelector("[aria-checked=true]") ?? this.list.querySelector("button"))?.focus();
  }

  show({ items, note = "", role = "menu" }) {
    this.list.setAttribute("role", role);
    this.list.replaceChildren(...items);
    this.note.textContent = note;
    this.note.hidden = !note;
  }

  close() {
    if (this.pop.matches(":popover-open")) this.pop.hidePopover();
    this.opener.focus();
  }

  key(event) {
    const items = [...this.list.querySelectorAll("button")];
    const at = items.indexOf(document.activeElement);
    if (at < 0) return;
    const ends = { Home: 0, End: items.length - 1 };
    const to = event.key in ends ? ends[event.key] : STEPS[event.key] ? (at + STEPS[event.key] + items.length) % items.length : -1;
    if (event.key === "Tab") this.close();
    if (to < 0) return;
    event.preventDefault();
    items[to].focus();
  }
}

/** One line of a menu: words, a note in small letters, and what it does. */
function item(name, words, onclick, { note = "", checked } = {}) {
  const role = checked === undefined ? "menuitem" : "menuitemradio";
  const attributes = { type: "button", role, tabindex: -1, "aria-checked": checked === undefined ? null : String(checked), onclick };
  const mark = checked === undefined ? icon(name) : checked ? icon("check") : el("span", { class: "vlm-menu-gap" });
  return el("button", attributes, mark, el("span", {}, words), note ? el("small", {}, note) : null);
}

const FORMATS = [
  [".md", "Export as Markdown"],
  [".ipynb", "Export as a notebook"],
  [".html", "Export as a web page"],
];

/** Which conversation the panel shows, and which model answers. */
export class Menus {
  constructor(store) {
    this.store = store;
    this.conversation = new Dropdown("Conversation", () => this.conversations());
    this.model = new Dropdown("Model", () => this.models());
    this.node = el("div", { class: "vlm-picks" }, this.conversation.node, this.model.node);
    this.update();
  }

  get menu() {
    return this.store.model.get("menu") ?? {};
  }

  /** Say what is in use. */
  update() {
    const { conversation = "", model = "" } = this.menu;
    this.conversation.say(conversation);
    this.model.say(model || "no model yet");
  }

  act(dropdown, kind, value) {
    return () => {
      dropdown.close();
      this.store.act(kind, "", { value });
    };
  }

  conversations() {
    const { conversation, conversations = [] } = this.menu;
    const { store, conversation: drop } = this;
    const known = conversations.map(({ name, note }) =>
      item("chat", name, this.act(drop, "enter", name), { note, checked: name === conversation }),
    );
    const own = [
      store.can("new") && item("add", "New conversation", this.act(drop, "new", "")),
      store.can("rename") && item("edit", "Rename", () => this.rename()),
      ...(store.can("export") ? FORMATS.map(([ending, words]) => item("save", words, this.act(drop, "export", ending))) : []),
    ].filter(Boolean);
    const items = [...known, ...(own.length ? [el("div", { role: "separator" }), ...own] : [])];
    return { items, note: "Holds for questions typed here from now on. Cells keep their conversation." };
  }

  models() {
    const { model, models = [] } = this.menu;
    const items = models.map(({ name, note }) =>
      item("chat", name, this.act(this.model, "use", name), { note, checked: name === model }),
    );
    const note = items.length
      ? "Answers later questions, here and in cells. %vlm_load loads another."
      : "The first question loads the starter; %vlm_load loads another model.";
    return { items, note };
  }

  /** A field with the name, in the place of the menu. */
  rename() {
    const drop = this.conversation;
    const input = el("input", { type: "text", maxlength: 60, "aria-label": "Name of the conversation" });
    input.value = this.menu.conversation;
    const save = () => {
      const name = input.value.trim();
      drop.close();
      if (name && name !== this.menu.conversation) this.store.act("rename", "", { value: name });
    };
    input.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      save();
    });
    const form = el("div", { class: "vlm-rename", role: "none" }, input, button("check", "Rename", save));
    drop.show({ items: [form], role: "group" });
    input.select();
  }
}
