// The live panel of vlm_magic on a page: any number of views of one store.
import { button, copyText, el, keepKeys, leave } from "./parts.mjs";
import { Composer } from "./composer.mjs";
import { Menus } from "./menus.mjs";
import { storeOf } from "./store.mjs";
import { TurnView, unwireWords, wireWords } from "./turns.mjs";
import { Queue, firstQuestions } from "./waiting.mjs";

const SAVED_TRIES = 40; // to find the new answer in the cell's saved output …
const SAVED_MS = 250; // … each after so long
const PARTS = ["kind", "title", "abilities", "settings", "offer"]; // what the panel is built of, beside its turns
const MANY_TURNS = 30; // from here on what is out of sight is not laid out, and earlier turns are built later
const AT_ONCE = 10; // turns that are built in one go while the page is idle
const LAYOUT_MS = 10; // enough to lay out one turn

/** All turns of a model on the page; a chat has a head and an input box as well. */
class PanelView {
  constructor(store, host) {
    this.store = store;
    this.turns = new Map();
    this.list = el("div", { class: "vlm-list" });
    this.latest = button("down", "Jump to the latest", () => this.jump(), { quiet: true, hidden: true });
    this.latest.classList.add("vlm-latest");
    this.queue = new Queue(store);
    this.notice = el("p", { class: "vlm-notice", role: "alert", hidden: true });
    this.node = el("section", { class: "vlm vlm-chat" });
    host.append(this.node);
    store.views.add(this);
    this.followGrowth();
    this.build();
    this.takeDrops();
    this.node.addEventListener("vlm-part", (event) => this.takePart(event.detail));
    this.fit();
  }

  /** A part of a picture was marked: it goes into the box, which a cell's panel has to get first. */
  takePart(part) {
    this.part = part;
    if (this.store.isWhole() && this.composer) this.useUpPart();
    else this.store.act("open", "");
  }

  useUpPart() {
    const { part } = this;
    this.part = null;
    this.composer.attachPart(part.whole, part.part);
    // The dialog gives the focus back late, and the panel may just have been built anew.
    setTimeout(() => this.composer.box.focus(), 150);
  }

  /** Pictures may be dropped anywhere on a panel that has a box for them. */
  takeDrops() {
    const { node } = this;
    const box = () => [...this.turns.values()].find((turn) => turn.editor)?.editor ?? (this.store.isWhole() ? this.composer : null);
    const mark = (isOver) => node.classList.toggle("vlm-drop", isOver);
    for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
      node.addEventListener(kind, (event) => {
        if (!box() || !this.store.isAlive()) return;
        event.preventDefault();
        event.stopPropagation();
        mark(kind === "dragenter" || kind === "dragover");
        if (kind === "drop") box().drop(event);
      });
    }
  }

  /** Say how much room the notebook's window has: a whole conversation fits into it with its box. */
  fit() {
    let frame = null;
    const measure = () => {
      const room = frame ? `${frame.clientHeight}px` : "";
      if (room) this.node.style.setProperty("--vlm-room", room);
      this.toEnd();
    };
    this.frame = new ResizeObserver(() => {
      this.watchBelow();
      const found = scrollerOf(this.node);
      if (found && found !== frame) {
        frame = found;
        this.frame.observe(frame);
      }
      measure();
    });
    this.frame.observe(this.node);
  }

  /** What `--explain` shows below this panel in its cell is about its answer: words in it are buttons as well. */
  watchBelow() {
    const area = this.below ? null : this.node.closest(".jp-OutputArea");
    if (!area) return;
    const wire = () => {
      for (const why of area.querySelectorAll(".vlm-explain[data-turn]")) {
        const { turn: id, said } = why.dataset;
        const turn = this.store.state.turns.get(id);
        if (turn?.state === "done" && turn.text === said && this.store.isAlive()) wireWords(why, this.store, id, this.node);
        else unwireWords(why);
      }
    };
    this.below = new MutationObserver(wire);
    this.below.observe(area, { childList: true, subtree: true });
    wire();
  }

  build() {
    const { model } = this.store;
    const isChat = this.store.isWhole();
    this.node.classList.toggle("vlm-whole", isChat);
    if (this.isGone) return;
    const focused = this.node.contains(document.activeElement) ? document.activeElement : null;
    const title = model.get("title");
    const answer = title ? `Answer of the model, ${title}` : "Answer of the model";
    this.node.setAttribute("aria-label", isChat ? title || "Conversation" : answer);
    if (isChat) {
      this.composer ??= this.store.can("send") ? new Composer(this.store, (text) => this.notify({ text })) : null;
      this.list.tabIndex = 0;
      this.list.setAttribute("role", "log");
      this.list.setAttribute("aria-label", "Turns");
      this.list.setAttribute("aria-live", "off");
      const composer = this.composer ? [this.composer.node] : [];
      const turns = el("div", { class: "vlm-turns" }, this.list, this.latest);
      this.node.replaceChildren(...this.head(), ...this.offer(), turns, this.queue.node, this.notice, ...composer);
    } else {
      for (const name of ["tabindex", "role", "aria-label", "aria-live"]) this.list.removeAttribute(name);
      for (const view of this.turns.values()) view.editor?.edited.onClose();
      const of = title ? [el("p", { class: "vlm-role vlm-of" }, title)] : []; // where there are several
      this.node.replaceChildren(...of, this.list, this.notice);
    }
    this.notify(this.store.notice);
    this.update({ kind: "all" });
    for (const view of this.turns.values()) view.showTools();
    if (isChat && this.composer && this.part) this.useUpPart();
    // What was moved lost the focus: who writes while the panel is built anew writes on.
    else if (focused?.isConnected && focused !== document.activeElement) focused.focus({ preventScroll: true });
  }

  head() {
    const { store } = this;
    const form = this.settings();
    const quiet = { quiet: true };
    const toggle = button("settings", "Settings", () => {
      form.hidden = !form.hidden;
      toggle.setAttribute("aria-expanded", String(!form.hidden));
      if (!form.hidden) form.querySelector("input").focus();
    }, { ...quiet, "aria-expanded": "false" });
    const copy = button("copy", "Copy the conversation", () => copyText(this.asText(), copy), quiet);
    const clear = button("clear", "Clear the conversation", () => {
      if (clear.classList.toggle("vlm-sure")) {
        clear.querySelector("svg").after(el("span", {}, "Clear all?"));
        setTimeout(() => this.isThere() && this.unsure(clear), 4000);
      } else store.act("clear", "");
    }, quiet);
    const words = el("p", { class: "vlm-role" }, el("b", {}, store.model.get("title") || "Conversation"));
    this.menus = store.model.get("menu")?.conversations ? new Menus(store) : null;
    const title = this.menus?.node ?? words;
    const leaveIt = button("back", "Show this cell's turn alone", () => store.act("leave", ""), quiet);
    const tools = [store.can("leave") && leaveIt, store.can("settings") && toggle, copy, store.can("clear") && clear].filter(Boolean);
    const head = el("div", { class: "vlm-head vlm-bar" }, title, el("div", { class: "vlm-tools" }, ...tools));
    return [head, form];
  }

  /** What the kernel can bring back, with the button that does it. */
  offer() {
    const { store } = this;
    const words = store.model.get("offer");
    if (!words || !store.can("restore")) return [];
    const bring = button("redo", "Bring back", () => store.act("restore", ""));
    return [el("div", { class: "vlm-offer", role: "status" }, el("p", {}, words), bring)];
  }

  unsure(clear) {
    clear.classList.remove("vlm-sure");
    clear.querySelector("span")?.remove();
  }

  /** The settings of the next messages, with the names that the magics use. */
  settings() {
    const { store } = this;
    const values = store.model.get("settings") ?? {};
    const field = (name, words, attributes) => {
      const input = el(attributes.rows ? "textarea" : "input", { name, ...attributes });
      input.value = values[name] ?? "";
      return el("label", {}, el("span", {}, words), input);
    };
    const form = el(
      "form",
      { class: "vlm-settings", hidden: true },
      field("temperature", "Temperature", { type: "number", min: 0, max: 2, step: 0.1, placeholder: "0 (greedy)" }),
      field("max_tokens", "Maximum tokens", { type: "number", min: 1, step: 1, placeholder: "512" }),
      field("system", "System text", { rows: 2 }),
    );
    keepKeys(form);
    form.addEventListener("keydown", (event) => event.key === "Escape" && leave(this.node));
    form.addEventListener("submit", (event) => event.preventDefault());
    form.addEventListener("change", () => {
      const { temperature, max_tokens: maxTokens, system } = form.elements;
      const number = (input) => (input.value === "" ? null : Number(input.value));
      store.act("settings", "", {
        values: { temperature: number(temperature), max_tokens: number(maxTokens), system: system.value },
      });
    });
    return form;
  }

  asText() {
    const { order, turns } = this.store.state;
    const one = ({ question_text: asked, speaker, text = "" }) => `You: ${asked}\n\n${speaker}: ${text}`;
    return order.map((id) => one(turns.get(id))).join("\n\n");
  }

  update(change) {
    const view = this.turns.get(change.id);
    if (change.kind === "delta") view?.delta(change);
    else if (change.kind === "progress") view?.showStatus();
    else if (change.kind === "turn" && view) view.render();
    else if (change.kind === "turn" && change.id === this.store.state.order.at(-1)) this.addTurn(change.id);
    else if (change.kind === "all") this.showAll();
    if (change.kind === "turn" && !view) this.follow = true;
    this.composer?.showGo();
    this.queue.update(this.turns);
    this.toEnd();
    this.checkSaved(view);
  }

  /** A stale answer was brought up to date: where the cell's saved output does not follow, say so. */
  async checkSaved(view) {
    const { store } = this;
    if (!store.isUpdating || store.isWhole() || view?.turn?.state !== "done") return;
    store.isUpdating = false;
    const words = (node) => node.textContent.replace(/\s+/g, " ").trim();
    for (let n = 0; n < SAVED_TRIES; n += 1) {
      await new Promise((done) => setTimeout(done, SAVED_MS));
      if (!this.isThere()) return; // out of sight: nobody can tell
      const saved = this.node.closest(".jp-OutputArea")?.querySelectorAll(".vlm-transcript .vlm-model > .vlm-body") ?? [];
      if ([...saved].some((body) => words(body) === words(view.blocks))) return;
    }
    this.notify({ text: "The saved output below this panel was not rewritten here: it still has the earlier answer. Run the cell again to save this one.", is_error: false });
  }

  /** Show the turns of the store in their order; views that are there stay. */
  showAll() {
    const { order } = this.store.state;
    this.list.classList.toggle("vlm-many", order.length > MANY_TURNS);
    for (const [id, view] of this.turns) {
      if (!order.includes(id)) this.turns.delete(id);
      else if (view.rendered !== view.turn) view.render();
    }
    const missing = order.filter((id) => !this.turns.has(id));
    for (const id of missing.slice(-MANY_TURNS)) this.addTurn(id);
    if (missing.length > MANY_TURNS) this.buildLater();
    const nodes = order.filter((id) => this.turns.has(id)).map((id) => this.turns.get(id).node);
    if (!nodes.length) nodes.push(...this.emptiness());
    // Moving a node takes the focus from what is in it, so nodes that stand right are left alone.
    const isSame = nodes.length === this.list.childNodes.length && nodes.every((n, i) => n === this.list.childNodes[i]);
    if (!isSame) this.list.replaceChildren(...nodes);
  }

  /** Build the turns that are missing, the newest first, a few at a time while the page has nothing else to do. */
  buildLater() {
    if (this.isBuilding) return;
    this.isBuilding = true;
    const step = () => {
      this.isBuilding = false;
      if (!this.store.views.has(this)) return;
      const { order } = this.store.state;
      const missing = order.filter((id) => !this.turns.has(id));
      for (const id of missing.slice(-AT_ONCE).reverse()) {
        const next = this.turns.get(order[order.indexOf(id) + 1]);
        this.addTurn(id, next?.node);
      }
      if (missing.length > AT_ONCE) this.buildLater();
      else this.layOutLater();
    };
    if (globalThis.requestIdleCallback) requestIdleCallback(step, { timeout: 1000 });
    else setTimeout(step, 50);
  }

  /**
   * Style and lay out each turn once while the page has nothing else to do, so that scrolling need not: the
   * browser keeps that, and the turn's height, when it is out of sight again.
   */
  layOutLater() {
    if (!globalThis.requestIdleCallback || this.isLayingOut) return;
    this.isLayingOut = true;
    let open = [];
    const step = (deadline) => {
      for (const node of open) node.classList.remove("vlm-laid"); // a frame has passed: its height is known
      open = [];
      const isThere = this.store.views.has(this) && this.list.classList.contains("vlm-many");
      const views = isThere ? [...this.turns.values()].filter((view) => !view.isLaidOut) : [];
      do {
        const view = views.shift();
        if (!view) break;
        view.isLaidOut = true;
        view.node.classList.add("vlm-laid");
        void view.node.offsetHeight;
        open.push(view.node);
      } while (deadline.timeRemaining() > LAYOUT_MS);
      this.isLayingOut = open.length > 0;
      if (this.isLayingOut) requestAnimationFrame(() => requestIdleCallback(step));
    };
    requestIdleCallback(step);
  }

  /** What stands in a conversation without turns. */
  emptiness() {
    const first = this.store.isWhole() && this.store.isAlive() ? firstQuestions(this.store, this.composer) : null;
    const words = first ? "No turns yet. Ask something, or begin with:" : "No turns yet.";
    return [el("p", { class: "vlm-empty" }, words), first].filter(Boolean);
  }

  /** There is something else to choose from; a menu that is open stays. */
  showMenu() {
    if (!this.store.isWhole() || this.isGone) return;
    const isOffered = !!this.store.model.get("menu")?.conversations;
    if (isOffered !== !!this.menus) this.build();
    this.menus?.update();
    for (const view of this.turns.values()) if (view.turn?.is_cut_off) view.showTools();
    if (!this.store.state.order.length) this.showAll();
  }

  addTurn(id, before = null) {
    if (!this.turns.size) this.list.replaceChildren();
    const view = new TurnView(this.store, id, this.node, (text) => this.notify({ text }));
    this.turns.set(id, view);
    this.growth.observe(view.node);
    this.list.insertBefore(view.node, before);
  }

  notify({ text = "", is_error: isError = true }) {
    this.notice.textContent = text;
    this.notice.hidden = !text;
    this.notice.classList.toggle("vlm-calm", !isError);
    this.notice.setAttribute("role", isError ? "alert" : "status");
  }

  isThere() {
    return this.node.isConnected;
  }

  /** Follow the answer as it grows, until the person scrolls up to read. */
  followGrowth() {
    let last = 0;
    this.follow = true;
    this.list.addEventListener("scroll", () => {
      const { scrollTop, scrollHeight, clientHeight } = this.list;
      if (scrollTop < last - 2) this.follow = false;
      if (scrollHeight - scrollTop - clientHeight < 32) this.follow = true;
      last = scrollTop;
      this.latest.hidden = this.follow;
    });
    this.growth = new ResizeObserver(() => this.toEnd());
  }

  jump() {
    this.follow = true;
    this.latest.hidden = true;
    this.toEnd();
    this.list.focus({ preventScroll: true });
  }

  toEnd() {
    if (this.follow && this.node.classList.contains("vlm-whole")) this.list.scrollTop = this.list.scrollHeight;
  }

  setLive(isLive) {
    this.node.classList.toggle("vlm-live", isLive);
    this.node.classList.toggle("vlm-dead", !isLive);
    if (isLive) return;
    for (const view of this.turns.values()) view.showTools();
    if (this.store.isWhole()) this.sayGone();
  }

  /** The kernel is gone: the transcript below shows what was said, this panel says how to go on. */
  sayGone() {
    this.isGone = true;
    const words = "The kernel that held this conversation has ended. Load vlm_magic and run this cell again to go on with it.";
    const again = button("redo", "Bring it back", () => this.bringBack(again));
    const host = this.node.closest(".jp-Cell");
    const bar = el("div", { class: "vlm-offer", role: "status" }, el("p", {}, words), host && again);
    this.node.classList.add("vlm-gone");
    this.node.replaceChildren(bar);
  }

  /** Load the extension in the kernel that is there now, and run this panel's cell. */
  async bringBack(button) {
    const kernel = this.store.model.widget_manager?.kernel;
    if (!kernel || kernel.isDisposed) {
      this.node.querySelector("p").textContent = "There is no kernel yet: start one, then run this cell again.";
      return;
    }
    button.disabled = true;
    await kernel.requestExecute({ code: "%load_ext vlm_magic", silent: true, store_history: false }).done;
    leave(this.node);
    const key = { key: "Enter", code: "Enter", keyCode: 13, ctrlKey: true, bubbles: true, cancelable: true };
    document.activeElement?.dispatchEvent(new KeyboardEvent("keydown", key));
  }
}

/** The element whose scrollbar moves the notebook; null where the page itself scrolls. */
function scrollerOf(node) {
  const view = node.closest(".jp-LinkedOutputView"); // an output in a view of its own
  if (view) return view;
  const cell = node.closest(".jp-Cell") ?? node;
  for (let at = cell.parentElement; at && at !== document.body; at = at.parentElement) {
    if (at.clientHeight && /auto|scroll/.test(getComputedStyle(at).overflowY)) return at;
  }
  return null;
}

function initialize({ model }) {
  storeOf(model); // from here on no message is missed, even before a view is drawn
}

function render({ model, el: host }) {
  const store = storeOf(model);
  const view = new PanelView(store, host);
  view.setLive(store.isAlive());
  const rebuild = () => view.build();
  const showMenu = () => view.showMenu();
  model.on("change:menu", showMenu);
  for (const name of PARTS) model.on(`change:${name}`, rebuild);
  const { order, turns } = store.state;
  model.send({ type: "ready", known: order.map((id) => [id, turns.get(id).state]) });
  return () => {
    for (const name of PARTS) model.off(`change:${name}`, rebuild);
    model.off("change:menu", showMenu);
    store.views.delete(view);
    view.growth.disconnect();
    view.frame.disconnect();
    view.below?.disconnect();
    view.node.remove();
  };
}

export default { initialize, render };
