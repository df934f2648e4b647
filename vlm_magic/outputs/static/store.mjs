// What the page knows of one panel, and what it tells the kernel: one store for each model of a widget.
import { applyMessage, isUnderWay, newState, setTurns } from "./state.mjs";

const ACK_MS = 700; // the kernel says at once that it heard a Stop; after this its cell is interrupted
const GONE = ["dead", "terminating", "restarting", "autorestarting"];
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
    this.kernel = model.widget_manager?.kernel ?? null; // null where the front-end does not say
    this.hasEnded = false;
    this.watchKernel();
    setTurns(this.state, model.get("turns") ?? []);
    model.on("msg:custom", (message, buffers) => this.receive(message, buffers));
  }

  /** Learn that the kernel is gone, whoever ended it. */
  watchKernel() {
    const end = () => {
      if (this.hasEnded) return;
      this.hasEnded = true;
      for (const view of this.views) view.setLive(false);
    };
    this.kernel?.statusChanged?.connect?.((_kernel, status) => GONE.includes(status) && end());
    this.kernel?.disposed?.connect?.(end);
  }

  /** Whether somebody hears what is sent: the kernel that made this panel is there, and no other in its place. */
  isAlive() {
    const { kernel, model } = this;
    if (!kernel) return true;
    const now = model.widget_manager?.kernel;
    return !this.hasEnded && !kernel.isDisposed && !!now && now.id === kernel.id;
  }

  /** Whether this is a whole conversation, not the turn of one cell. */
  isWhole() {
    return this.model.get("kind") === "chat";
  }

  can(kind) {
    return this.model.get("abilities").includes(kind);
  }

  /** Whether the model goes on with an answer that was cut off; some servers answer from the beginning. */
  canContinue() {
    return this.can("continue") && this.model.get("menu")?.can_continue !== false;
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
    this.isUpdating ||= kind === "refresh";
    this.notify({}); // it was about what was done before
    this.model.send({ type: "act", kind, id, ...values });
  }

  send(text, pictures, onRefused) {
    this.actWithPictures({ kind: "send", text }, pictures, onRefused);
  }

  edit(id, text, pictures, onRefused) {
    this.notify({});
    this.actWithPictures({ kind: "edit", id, text }, pictures, onRefused);
  }

  /** A message with its pictures: those that the kernel has by their index, new ones as bytes. */
  actWithPictures(action, pictures, onRefused) {
    const draft = (this.ticket += 1);
    this.drafts.set(draft, onRefused);
    const marks = [...pictures].map(([n, { name, kept, of, region }]) => ({ n, name, kept, of, region }));
    const buffers = [...pictures.values()].filter(({ bytes }) => bytes).map(({ bytes }) => bytes);
    this.model.send({ type: "act", ...action, pictures: marks, draft }, undefined, buffers);
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

/** The store of a model, made when it is first asked for. */
export function storeOf(model) {
  if (!stores.has(model)) stores.set(model, new Store(model));
  return stores.get(model);
}
