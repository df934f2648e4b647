// The box that a person writes into: text that grows, pictures as marks and chips, names of variables.
// A new message and a question that is edited have the same box.
import { completeName, insertMark, mark, namePrefix, removeMark, underWay } from "./state.mjs";
import { button, el, icon, keepKeys, leave } from "./parts.mjs";

const MAX_PICTURE_BYTES = 20 * 1024 * 1024;

export class Composer {
  /**
   * `notify` shows a remark, "" takes it away. A box for an edit has:
   * text and pictures (number of the mark → {name, url, kept}) to begin with, id of the turn,
   * onClose, called when the person has sent it or thought better of it.
   */
  constructor(store, notify, edit = null) {
    this.store = store;
    this.notify = notify;
    this.edited = edit;
    this.pictures = new Map(edit?.pictures); // number of the mark → {name, url} and bytes; or kept, its index; or of, [turn, index], and region
    this.n = this.pictures.size;
    this.names = [];
    this.chosen = -1;
    this.box = el("textarea", {
      class: "vlm-input",
      rows: 1,
      dir: "auto",
      placeholder: "Ask about your pictures",
      "aria-label": edit ? "Edit this message" : "Message to the model",
      "aria-autocomplete": "list",
      "aria-haspopup": "listbox",
    });
    this.file = el("input", { type: "file", accept: "image/*", multiple: true, class: "vlm-unseen", tabindex: -1 });
    this.file.setAttribute("aria-hidden", "true"); // the button beside the box opens it
    this.chips = el("ul", { class: "vlm-chips", "aria-label": "Attached pictures", hidden: true });
    this.list = el("ul", { class: "vlm-names", role: "listbox", "aria-label": "Variables", hidden: true });
    this.list.id = `vlm-names-${Math.random().toString(36).slice(2)}`;
    this.box.setAttribute("aria-controls", this.list.id);
    const words = edit ? "Ask again" : "Send";
    this.go = button("send", words, () => this.send(), { title: `${words} (Enter); Shift+Enter starts a new line` });
    this.go.classList.add("vlm-primary");
    this.stop = button("stop", "Stop", () => this.stopAnswer(), { title: "Stop the answer", hidden: true });
    this.stop.classList.add("vlm-primary", "vlm-stop-here");
    const attach = button("picture", "Attach pictures", () => this.file.click(), { quiet: true });
    const hint = el("p", { class: "vlm-hint" }, edit?.hint ?? "Paste or drop pictures, or write {name} of a variable");
    const ends = edit ? [button("close", "Cancel", () => edit.onClose()), this.go] : [this.stop, this.go];
    const row = el("div", { class: "vlm-row" }, attach, hint, ...ends);
    this.node = el("div", { class: "vlm-composer" }, this.chips, this.box, this.list, row, this.file);
    this.box.value = edit?.text ?? "";
    this.showChips();
    this.listen();
  }

  /** While an answer is made and nothing is typed, Stop stands where Send was. */
  showGo() {
    const answer = this.edited ? null : underWay(this.store.state);
    const isStop = !!answer && this.store.can("stop") && !this.box.value.trim();
    if (isStop === this.go.hidden) return;
    const hadFocus = [this.go, this.stop].includes(document.activeElement);
    this.go.hidden = isStop;
    this.stop.hidden = !isStop;
    if (hadFocus) this.box.focus();
  }

  stopAnswer() {
    const answer = underWay(this.store.state);
    if (answer) this.store.stop(answer.id);
    this.box.focus();
  }

  listen() {
    const { box, node, file } = this;
    keepKeys(node);
    box.addEventListener("keydown", (event) => this.key(event));
    box.addEventListener("input", () => this.changed());
    box.addEventListener("click", () => this.closeNames());
    box.addEventListener("paste", (event) => {
      const files = [...(event.clipboardData?.files ?? [])];
      if (!files.length) return;
      event.preventDefault();
      this.attach(files);
    });
    file.addEventListener("change", () => {
      this.attach([...file.files]);
      file.value = "";
    });
  }

  key(event) {
    if (!this.list.hidden && this.namesKey(event)) {
      event.preventDefault();
      return;
    }
    if (event.key === "Escape") {
      event.preventDefault();
      if (this.edited) this.edited.onClose();
      else leave(this.node);
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
    this.showGo();
  }

  grow() {
    this.box.style.height = "auto";
    this.box.style.height = `${Math.min(this.box.scrollHeight + 2, 240)}px`;
  }

  send() {
    const text = this.box.value;
    if (!text.trim()) return;
    if (!this.store.isAlive()) {
      this.notify("The kernel that knew this conversation is gone: nothing was sent. Run its cell again.");
      return;
    }
    if (this.edited) {
      this.store.edit(this.edited.id, text, this.pictures, (refusal) => this.notify(refusal));
      this.edited.onClose();
      return;
    }
    this.store.send(text, this.pictures, (refusal) => this.refused(refusal, text, draft));
    const draft = new Map(this.pictures);
    this.notify("");
    this.box.value = "";
    this.pictures.clear();
    this.showChips();
    this.closeNames();
    this.grow();
    this.showGo();
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
      if (!file.type.startsWith("image/")) {
        this.notify(`${file.name} is not a picture: PNG, JPEG, WebP, GIF and the like can be attached`);
        continue;
      }
      if (file.size > MAX_PICTURE_BYTES) {
        this.notify(`${file.name} is larger than 20 MB`);
        continue;
      }
      const bytes = await file.arrayBuffer();
      this.n += 1;
      const name = file.name && file.name !== "image.png" ? file.name : `picture ${this.n}`;
      this.put(this.n, { name, bytes, url: URL.createObjectURL(file) });
    }
    this.showChips();
    this.grow();
    this.showGo();
    this.box.focus();
  }

  /** Begin with a question that was offered; what stands there already is kept before it. */
  begin(words) {
    this.box.value = [this.box.value.trim(), words].filter(Boolean).join(" ");
    this.grow();
    this.showGo();
    this.box.focus();
    this.box.setSelectionRange(this.box.value.length, this.box.value.length);
  }

  /** Picture number n with its mark at the cursor. */
  put(n, picture) {
    this.pictures.set(n, picture);
    const { text, cursor } = insertMark(this.box.value, this.box.selectionStart, this.box.selectionEnd, n);
    this.box.value = text;
    this.box.setSelectionRange(cursor, cursor);
  }

  /** A picture of a turn and the part of it that was marked; the picture stands there once, whatever is asked of it. */
  attachPart(whole, part) {
    const isThere = ({ of, region }) => !region && String(of) === String(whole.of);
    if (![...this.pictures.values()].some(isThere)) this.put((this.n += 1), whole);
    this.put((this.n += 1), part);
    this.showChips();
    this.grow();
    this.showGo();
    this.box.focus();
  }

  detach(n) {
    if (this.pictures.get(n)?.bytes) URL.revokeObjectURL(this.pictures.get(n).url);
    this.pictures.delete(n);
    this.box.value = removeMark(this.box.value, n);
    this.showChips();
    this.grow();
  }

  /** What was dropped anywhere on the panel. */
  async drop(event) {
    const files = [...(event.dataTransfer?.files ?? [])];
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
        picture.url ? el("img", { src: picture.url, alt: "" }) : icon("picture"),
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

/** A picture dragged out of the page itself arrives as HTML; only its own data is taken, nothing is fetched. */
async function pictureInHtml(html) {
  const image = new DOMParser().parseFromString(html || "", "text/html").querySelector("img");
  const src = image?.getAttribute("src") ?? "";
  if (!/^data:image\/(png|jpeg|webp|gif|bmp);base64,/.test(src)) return [];
  const bytes = Uint8Array.from(atob(src.slice(src.indexOf(",") + 1)), (c) => c.charCodeAt(0));
  const type = src.slice(5, src.indexOf(";"));
  return [new File([bytes], image.alt || "picture", { type })];
}
