// The box that a person writes into: text that grows, pictures as marks and chips, names of variables.
import { completeName, insertMark, mark, namePrefix, removeMark } from "./state.mjs";
import { button, el, icon } from "./parts.mjs";

const MAX_PICTURE_BYTES = 20 * 1024 * 1024;

/** Calls store.send(text, pictures) when the person sends. */
export class Composer {
  /** `notify` shows a remark, "" takes it away. */
  constructor(store, notify) {
    this.store = store;
    this.notify = notify;
    this.pictures = new Map(); // number of the mark → {name, bytes, url}
    this.n = 0;
    this.names = [];
    this.chosen = -1;
    this.box = el("textarea", {
      class: "vlm-input",
      rows: 1,
      placeholder: "Ask about your pictures",
      "aria-label": "Message to the model",
      "aria-autocomplete": "list",
      "aria-haspopup": "listbox",
    });
    this.file = el("input", { type: "file", accept: "image/*", multiple: true, class: "vlm-unseen", tabindex: -1 });
    this.file.setAttribute("aria-label", "Picture files");
    this.chips = el("ul", { class: "vlm-chips", "aria-label": "Attached pictures", hidden: true });
    this.list = el("ul", { class: "vlm-names", role: "listbox", "aria-label": "Variables", hidden: true });
    this.list.id = `vlm-names-${Math.random().toString(36).slice(2)}`;
    this.box.setAttribute("aria-controls", this.list.id);
    this.go = button("send", "Send", () => this.send(), { title: "Send (Enter); Shift+Enter starts a new line" });
    this.go.classList.add("vlm-primary");
    const attach = button("picture", "Attach pictures", () => this.file.click(), { quiet: true });
    const hint = el("p", { class: "vlm-hint" }, "Paste or drop pictures, or write {name} of a variable");
    const row = el("div", { class: "vlm-row" }, attach, hint, this.go);
    this.node = el("div", { class: "vlm-composer" }, this.chips, this.box, this.list, row, this.file);
    this.listen();
  }

  listen() {
    const { box, node, file } = this;
    for (const kind of ["keydown", "keyup", "keypress", "copy", "cut", "paste"]) {
      node.addEventListener(kind, (event) => event.stopPropagation());
    }
    box.addEventListener("keydown", (event) => this.key(event));
    box.addEventListener("input", () => this.changed());
    box.addEventListener("click", () => this.closeNames());
    box.addEventListener("paste", (event) => {
      const files = imagesOf(event.clipboardData);
      if (!files.length) return;
      event.preventDefault();
      this.attach(files);
    });
    file.addEventListener("change", () => {
      this.attach([...file.files]);
      file.value = "";
    });
    for (const kind of ["dragenter", "dragover"]) {
      node.addEventListener(kind, (event) => {
        event.preventDefault();
        event.stopPropagation();
        node.classList.add("vlm-drop");
      });
    }
    node.addEventListener("dragleave", () => node.classList.remove("vlm-drop"));
    node.addEventListener("drop", (event) => this.drop(event));
  }

  key(event) {
    if (!this.list.hidden && this.namesKey(event)) {
      event.preventDefault();
      return;
    }
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      this.send();
    }
  }

  changed() {
    this.grow();
    const prefix = namePrefix(this.box.value, this.box.selectionStart);
    if (prefix === null) this.closeNames();
    else this.store.complete(prefix, (names) => this.showNames(prefix, names));
    for (const n of this.pictures.keys()) if (!this.box.value.includes(mark(n))) this.detach(n);
  }

  grow() {
    this.box.style.height = "auto";
    this.box.style.height = `${Math.min(this.box.scrollHeight + 2, 240)}px`;
  }

  send() {
    const text = this.box.value;
    if (!text.trim()) return;
    this.store.send(text, this.pictures, (refusal) => this.refused(refusal, text, draft));
    const draft = new Map(this.pictures);
    this.notify("");
    this.box.value = "";
    this.pictures.clear();
    this.showChips();
    this.closeNames();
    this.grow();
    this.box.focus();
  }

  /** The kernel could not take the message: say why, and give it back where nothing new was begun. */
  refused(why, text, pictures) {
    this.notify(why);
    if (this.box.value.trim()) return;
    this.box.value = text;
    this.pictures = pictures;
    this.showChips();
    this.grow();
  }

  async attach(files) {
    for (const file of files) {
      if (!file.type.startsWith("image/")) continue;
      if (file.size > MAX_PICTURE_BYTES) {
        this.notify(`${file.name} is larger than 20 MB`);
        continue;
      }
      const bytes = await file.arrayBuffer();
      this.n += 1;
      const name = file.name && file.name !== "image.png" ? file.name : `picture ${this.n}`;
      this.pictures.set(this.n, { name, bytes, url: URL.createObjectURL(file) });
      const { text, cursor } = insertMark(this.box.value, this.box.selectionStart, this.box.selectionEnd, this.n);
      this.box.value = text;
      this.box.setSelectionRange(cursor, cursor);
    }
    this.showChips();
    this.grow();
    this.box.focus();
  }

  detach(n) {
    URL.revokeObjectURL(this.pictures.get(n)?.url);
    this.pictures.delete(n);
    this.box.value = removeMark(this.box.value, n);
    this.showChips();
    this.grow();
  }

  async drop(event) {
    event.preventDefault();
    event.stopPropagation();
    this.node.classList.remove("vlm-drop");
    const files = imagesOf(event.dataTransfer);
    const html = event.dataTransfer.getData("text/html");
    const text = event.dataTransfer.getData("text/uri-list") || event.dataTransfer.getData("text/plain");
    if (!files.length) files.push(...(await pictureInHtml(html)));
    if (files.length) await this.attach(files);
    else if (text) {
      this.box.setRangeText(text, this.box.selectionStart, this.box.selectionEnd, "end");
      this.changed();
    }
  }

  showChips() {
    const chip = ([n, picture]) =>
      el(
        "li",
        { class: "vlm-chip" },
        el("img", { src: picture.url, alt: "" }),
        el("span", {}, `${n} · ${picture.name}`),
        button("close", `Remove ${picture.name}`, () => (this.detach(n), this.box.focus()), { quiet: true }),
      );
    this.chips.replaceChildren(...[...this.pictures].map(chip));
    this.chips.hidden = !this.pictures.size;
  }

  showNames(prefix, names) {
    if (namePrefix(this.box.value, this.box.selectionStart) !== prefix || !names.length) return this.closeNames();
    this.names = names;
    const option = (name, n) => {
      const item = el("li", { role: "option", id: `${this.list.id}-${n}` }, icon("picture"), el("span", {}, name));
      item.addEventListener("pointerdown", (event) => {
        event.preventDefault();
        this.accept(n);
      });
      return item;
    };
    this.list.replaceChildren(...names.map(option));
    this.list.hidden = false;
    return this.choose(0);
  }

  choose(n) {
    this.chosen = (n + this.names.length) % this.names.length;
    [...this.list.children].forEach((item, index) => item.setAttribute("aria-selected", String(index === this.chosen)));
    this.list.children[this.chosen].scrollIntoView({ block: "nearest" });
    this.box.setAttribute("aria-activedescendant", `${this.list.id}-${this.chosen}`);
  }

  closeNames() {
    this.list.hidden = true;
    this.box.removeAttribute("aria-activedescendant");
  }

  /** Keys while names are offered; true where the key was for the list. */
  namesKey(event) {
    if (event.key === "ArrowDown") this.choose(this.chosen + 1);
    else if (event.key === "ArrowUp") this.choose(this.chosen - 1);
    else if (event.key === "Escape") this.closeNames();
    else if (event.key === "Tab" || event.key === "Enter") this.accept(this.chosen);
    else return false;
    return true;
  }

  accept(n) {
    const { box } = this;
    const prefix = namePrefix(box.value, box.selectionStart) ?? "";
    const { text, cursor } = completeName(box.value, box.selectionStart, prefix, this.names[n]);
    box.value = text;
    box.setSelectionRange(cursor, cursor);
    this.closeNames();
    this.grow();
  }
}

/** The picture files of a paste or a drop. */
function imagesOf(transfer) {
  return [...(transfer?.files ?? [])].filter((file) => file.type.startsWith("image/"));
}

/** A picture dragged out of the page itself arrives as HTML; only its own data is taken, nothing is fetched. */
async function pictureInHtml(html) {
  const image = new DOMParser().parseFromString(html || "", "text/html").querySelector("img");
  const src = image?.getAttribute("src") ?? "";
  if (!/^data:image\/(png|jpeg|webp|gif|bmp);base64,/.test(src)) return [];
  const bytes = Uint8Array.from(atob(src.slice(src.indexOf(",") + 1)), (c) => c.charCodeAt(0));
  const type = src.slice(5, src.indexOf(";"));
  return [new File([bytes], image.alt || "picture", { type })];
}
