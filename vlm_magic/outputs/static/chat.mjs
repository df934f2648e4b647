// The live panel of vlm_magic: one store for each model, any number of views of it.
import { applyMessage, isUnderWay, newState, setTurns } from "./state.mjs";
import { button, copyText, el } from "./parts.mjs";
import { Composer } from "./composer.mjs";
import { TurnView } from "./turns.mjs";

const ACK_MS = 700; // the kernel says at once that it heard a Stop; after this its cell is interrupted
const GONE = ["dead", "terminating", "restarting", "autorestarting"];
const PARTS = ["kind", "title", "abilities", "settings", "offer"]; // what the panel is built of, beside its turns
const stores = new WeakMap();

/** What one model knows, who looks at it, and what they do. */
class Store {
  constructor(model) {
    this.model = model;
    this.state = newState();
    this.views = new Set();
    this.acks = new Set();
    this.drafts = new Map();
    this.completions = null;
    this.ticket = 0;
    this.onPicture = null;
    this.notice = {}; // kept for views that are drawn later
    setTurns(this.state, model.get("turns") ?? []);
    model.on("msg:custom", (message, buffers) => this.receive(message, buffers));
  }

  /** Whether this is a whole conversation, not the turn of one cell. */
  isWhole() {
    return this.model.get("kind") === "chat";
  }

  can(kind) {
    return this.model.get("abilities").includes(kind);
  }

  /** "message", or "interrupt" where a running cell hears nothing else. */
  stopsBy() {
    return this.model.get("blocking") ? this.model.get("stop_by") : "message";
  }

  receive(message, buffers) {
    if (message.type === "ack") this.acks.add(message.id);
    else if (message.type === "picture") this.onPicture?.(message, buffers[0]);
    else if (message.type === "completions" && message.ticket === this.ticket) this.completions?.(message.names);
    else if (message.type === "refused") this.drafts.get(message.draft)?.(message.text);
    else if (message.type === "notice") this.notify(message);
    else this.change(applyMessage(this.state, message));
  }

  notify(notice) {
    this.notice = notice;
    for (const view of this.views) view.notify(notice);
  }

  change(change) {
    if (change.kind === "resync") this.model.send({ type: "resync" });
    for (const view of this.views) view.update(change);
  }

  act(kind, id, values = {}) {
    this.notify({}); // it was about what was done before
    this.model.send({ type: "act", kind, id, ...values });
  }

  send(text, pictures, onRefused) {
    const draft = (this.ticket += 1);
    this.drafts.set(draft, onRefused);
    const marks = [...pictures].map(([n, { name }]) => ({ n, name }));
    const buffers = [...pictures.values()].map(({ bytes }) => bytes);
    this.model.send({ type: "act", kind: "send", text, pictures: marks, draft }, undefined, buffers);
  }

  complete(prefix, onNames) {
    this.ticket += 1;
    this.completions = onNames;
    this.model.send({ type: "complete", prefix, ticket: this.ticket });
  }

  /** End an answer: tell the kernel, and interrupt it where it does not hear while its cell runs. */
  stop(id) {
    this.acks.delete(id);
    this.model.send({ type: "stop", id });
    const interrupt = () => {
      const turn = this.state.turns.get(id);
      if (!turn || !isUnderWay(turn) || !this.model.get("blocking") || this.acks.has(id)) return;
      this.model.widget_manager?.kernel?.interrupt?.();
    };
    if (this.stopsBy() === "interrupt") interrupt();
    else setTimeout(interrupt, ACK_MS);
  }
}

/** All turns of a model on the page; a chat has a head and an input box as well. */
class PanelView {
  constructor(store, host) {
    this.store = store;
    this.turns = new Map();
    this.list = el("div", { class: "vlm-list" });
    this.notice = el("p", { class: "vlm-notice", role: "alert", hidden: true });
    this.node = el("section", { class: "vlm vlm-chat" });
    host.append(this.node);
    store.views.add(this);
    this.followGrowth();
    this.build();
  }

  build() {
    const { model } = this.store;
    const isChat = this.store.isWhole();
    this.node.classList.toggle("vlm-whole", isChat);
    this.node.setAttribute("aria-label", isChat ? model.get("title") || "Conversation" : "Answer of the model");
    if (isChat) {
      this.composer ??= this.store.can("send") ? new Composer(this.store, (text) => this.notify({ text })) : null;
      this.list.tabIndex = 0;
      this.list.setAttribute("role", "log");
      this.list.setAttribute("aria-label", "Turns");
      this.list.setAttribute("aria-live", "off");
      const composer = this.composer ? [this.composer.node] : [];
      this.node.replaceChildren(...this.head(), ...this.offer(), this.list, this.notice, ...composer);
    } else this.node.replaceChildren(this.list, this.notice);
    this.notify(this.store.notice);
    this.update({ kind: "all" });
    for (const view of this.turns.values()) view.showTools();
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
    const clear = button("trash", "Clear the conversation", () => {
      if (clear.classList.toggle("vlm-sure")) {
        clear.querySelector("svg").after(el("span", {}, "Clear all?"));
        setTimeout(() => this.isThere() && this.unsure(clear), 4000);
      } else store.act("clear", "");
    }, quiet);
    const title = el("p", { class: "vlm-role" }, el("b", {}, store.model.get("title") || "Conversation"));
    const tools = [store.can("settings") && toggle, copy, store.can("clear") && clear].filter(Boolean);
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
    for (const kind of ["keydown", "keyup", "keypress", "paste", "copy", "cut"]) {
      form.addEventListener(kind, (event) => event.stopPropagation());
    }
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
    else if (change.kind === "turn") this.addTurn(change.id);
    else if (change.kind === "all") this.showAll();
    if (change.kind === "turn" && !view) this.follow = true;
    this.toEnd();
  }

  /** Show the turns of the store in their order; views that are there stay. */
  showAll() {
    const { order } = this.store.state;
    for (const [id, view] of this.turns) {
      if (!order.includes(id)) this.turns.delete(id);
      else if (view.rendered !== view.turn) view.render();
    }
    for (const id of order) if (!this.turns.has(id)) this.addTurn(id);
    const nodes = order.map((id) => this.turns.get(id).node);
    if (!nodes.length) nodes.push(el("p", { class: "vlm-empty" }, "No turns yet."));
    // Moving a node takes the focus from what is in it, so nodes that stand right are left alone.
    const isSame = nodes.length === this.list.childNodes.length && nodes.every((n, i) => n === this.list.childNodes[i]);
    if (!isSame) this.list.replaceChildren(...nodes);
  }

  addTurn(id) {
    if (!this.turns.size) this.list.replaceChildren();
    const view = new TurnView(this.store, id, this.node);
    this.turns.set(id, view);
    this.growth.observe(view.node);
    this.list.append(view.node);
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
    });
    this.growth = new ResizeObserver(() => this.toEnd());
  }

  toEnd() {
    if (this.follow && this.node.classList.contains("vlm-whole")) this.list.scrollTop = this.list.scrollHeight;
  }

  setLive(isLive) {
    this.node.classList.toggle("vlm-live", isLive);
    this.node.classList.toggle("vlm-dead", !isLive);
  }
}

function storeOf(model) {
  if (!stores.has(model)) stores.set(model, new Store(model));
  return stores.get(model);
}

function initialize({ model }) {
  storeOf(model); // from here on no message is missed, even before a view is drawn
}

function render({ model, el: host }) {
  const store = storeOf(model);
  const view = new PanelView(store, host);
  view.setLive(true);
  const onStatus = (_kernel, status) => GONE.includes(status) && view.setLive(false);
  const kernel = model.widget_manager?.kernel;
  kernel?.statusChanged?.connect?.(onStatus);
  const rebuild = () => view.build();
  for (const name of PARTS) model.on(`change:${name}`, rebuild);
  const { order, turns } = store.state;
  model.send({ type: "ready", known: order.map((id) => [id, turns.get(id).state]) });
  return () => {
    kernel?.statusChanged?.disconnect?.(onStatus);
    for (const name of PARTS) model.off(`change:${name}`, rebuild);
    store.views.delete(view);
    view.growth.disconnect();
    view.node.remove();
  };
}

export default { initialize, render };
