// The live panel of vlm_magic: one store for each model, any number of views of it.
import { applyMessage, countTokens, isUnderWay, newState, openBlock, setTurns } from "./state.mjs";
import { addCopyButtons, button, copyText, el, openPicture } from "./parts.mjs";

const ACK_MS = 700; // the kernel says so at once when it heard a Stop; after this the kernel is interrupted
const stores = new WeakMap();

/** What one model knows, and who looks at it. */
class Store {
  constructor(model) {
    this.model = model;
    this.state = newState();
    this.views = new Set();
    this.acks = new Set();
    this.onPicture = null;
    setTurns(this.state, model.get("turns") ?? []);
    model.on("msg:custom", (message, buffers) => this.receive(message, buffers));
  }

  receive(message, buffers) {
    if (message.type === "ack") this.acks.add(message.id);
    else if (message.type === "picture") this.onPicture?.(message, buffers[0]);
    else {
      const change = applyMessage(this.state, message);
      if (change.kind === "resync") this.model.send({ type: "resync" });
      for (const view of this.views) view.update(change);
    }
  }

  /** End an answer: tell the kernel, and interrupt it where it does not hear while its cell runs. */
  stop(id) {
    this.acks.delete(id);
    this.model.send({ type: "stop", id });
    const interrupt = () => {
      const turn = this.state.turns.get(id);
      if (!turn || !isUnderWay(turn) || !turn.blocking || this.acks.has(id)) return;
      this.model.widget_manager?.kernel?.interrupt?.();
    };
    if (this.model.get("stop_by") === "interrupt") interrupt();
    else setTimeout(interrupt, ACK_MS);
  }
}

/** One turn on the page. */
class TurnView {
  constructor(store, id, host) {
    this.store = store;
    this.id = id;
    this.host = host;
    this.question = el("div", { class: "vlm-body" });
    this.role = el("p", { class: "vlm-role" });
    this.blocks = el("div", { class: "vlm-blocks", "aria-live": "polite" });
    this.openCode = el("pre", { class: "vlm-open-code", hidden: true });
    this.openText = el("p", { class: "vlm-open", hidden: true });
    this.status = el("p", { class: "vlm-status", role: "status" });
    this.foot = el("div", { class: "vlm-foot" });
    this.tools = el("div", { class: "vlm-tools" });
    const answer = el("div", { class: "vlm-body" }, this.blocks, this.openCode, this.openText);
    this.node = el(
      "article",
      { class: "vlm-exchange" },
      el("div", { class: "vlm-turn vlm-user" }, el("p", { class: "vlm-role" }, el("b", {}, "You")), this.question),
      el(
        "div",
        { class: "vlm-turn vlm-model" },
        el("div", { class: "vlm-head" }, this.role, this.tools),
        answer,
        this.status,
        this.foot,
      ),
    );
    this.render();
  }

  get turn() {
    return this.store.state.turns.get(this.id);
  }

  /** Show the whole turn anew. All HTML was made inert in the kernel. */
  render() {
    const { turn } = this;
    if (this.question.innerHTML !== turn.question) {
      this.question.innerHTML = turn.question;
      this.wirePictures();
    }
    const marks = turn.badges.map((mark) => el("span", { class: "vlm-badge" }, mark));
    this.role.replaceChildren(el("b", {}, turn.speaker), ...marks);
    if (turn.state === "done") this.settle(turn);
    else {
      this.blocks.innerHTML = turn.html;
      this.foot.replaceChildren();
      this.showOpen();
      this.showStatus();
    }
    addCopyButtons(this.blocks);
    this.showTools();
  }

  /** The finished answer; it was read out block by block, so it is not read out again. */
  settle(turn) {
    this.blocks.setAttribute("aria-live", "off");
    this.blocks.innerHTML = turn.answer;
    this.openText.hidden = this.openCode.hidden = true;
    this.openText.textContent = this.openCode.textContent = "";
    this.foot.innerHTML = turn.proof;
    this.status.className = "vlm-status vlm-unseen";
    this.status.textContent = "Answer complete.";
    this.node.removeAttribute("aria-busy");
  }

  delta(change) {
    if (change.html !== undefined) {
      this.blocks.insertAdjacentHTML("beforeend", change.html);
      addCopyButtons(this.blocks);
      this.showOpen();
    } else if (!this.openText.hidden && !this.openText.dataset.mayBeCode) {
      this.openText.append(change.text);
    } else if (!this.openCode.hidden) {
      this.openCode.append(change.text);
    } else this.showOpen();
    this.showStatus();
    if (this.tools.childElementCount === 0) this.showTools();
  }

  showOpen() {
    const block = openBlock(this.turn.open);
    this.openCode.hidden = !block.code;
    this.openText.hidden = block.code || !block.text.trim();
    (block.code ? this.openCode : this.openText).textContent = block.text;
    if (/^[`~]/.test(block.text) && !block.code) this.openText.dataset.mayBeCode = "yes";
    else delete this.openText.dataset.mayBeCode;
  }

  showStatus() {
    const { turn } = this;
    this.node.toggleAttribute("aria-busy", isUnderWay(turn));
    this.status.className = `vlm-status vlm-${turn.state}`;
    const words = turn.state === "streaming" ? countTokens(turn.n) : turn.waiting;
    // A counter that changes twenty times a second is not read out.
    this.status.setAttribute("role", turn.state === "streaming" ? "presentation" : "status");
    if (this.status.textContent !== words) this.status.textContent = words;
  }

  showTools() {
    const { turn, store } = this;
    const tools = [];
    if (isUnderWay(turn)) {
      const alone = store.model.get("stop_by") === "message";
      const title = alone ? "Stop this answer" : "Stop by interrupting the kernel; this also ends a Run All";
      tools.push(button("stop", "Stop", () => this.stop(), { title }));
    } else if (turn.state === "done" && turn.text) {
      const copy = button("copy", "Copy answer", () => copyText(turn.text, copy), { quiet: true });
      tools.push(copy);
    }
    this.tools.replaceChildren(...tools);
  }

  stop() {
    this.store.stop(this.id);
    const [stop] = this.tools.children;
    stop.disabled = true;
    stop.querySelector("span").textContent = "Stopping";
  }

  wirePictures() {
    const pictures = this.question.querySelectorAll(".vlm-pic");
    pictures.forEach((picture, index) => {
      const thumbnail = picture.querySelector("img");
      if (!thumbnail) return;
      const open = () => this.openPicture(index, thumbnail);
      picture.setAttribute("role", "button");
      picture.setAttribute("tabindex", "0");
      picture.setAttribute("aria-label", `Show ${thumbnail.alt} in full`);
      picture.addEventListener("click", open);
      picture.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        event.stopPropagation();
        open();
      });
    });
  }

  openPicture(index, thumbnail) {
    const shown = openPicture(this.host, thumbnail.src, thumbnail.alt);
    let url = "";
    this.store.onPicture = (message, bytes) => {
      if (message.id !== this.id || message.index !== index || !shown.dialog.isConnected) return;
      url = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
      shown.replace(url, message.label);
    };
    shown.dialog.addEventListener("close", () => url && URL.revokeObjectURL(url));
    this.store.model.send({ type: "picture", id: this.id, index });
  }
}

/** All turns of a model on the page. */
class PanelView {
  constructor(store, node) {
    this.store = store;
    this.turns = new Map();
    this.list = el("div", { class: "vlm-list" });
    this.node = el("section", { class: "vlm vlm-chat", "aria-label": "Answer of the model" }, this.list);
    node.append(this.node);
    store.views.add(this);
    this.update({ kind: "all" });
  }

  update(change) {
    const view = this.turns.get(change.id);
    if (change.kind === "delta") view?.delta(change);
    else if (change.kind === "progress") view?.showStatus();
    else if (change.kind === "turn" && view) view.render();
    else if (change.kind === "turn") this.addTurn(change.id);
    else if (change.kind === "all") {
      this.turns.clear();
      this.list.replaceChildren();
      for (const id of this.store.state.order) this.addTurn(id);
    }
  }

  addTurn(id) {
    const view = new TurnView(this.store, id, this.node);
    this.turns.set(id, view);
    this.list.append(view.node);
  }

  setLive(isLive) {
    this.node.classList.toggle("vlm-live", isLive);
    this.node.classList.toggle("vlm-dead", !isLive);
  }
}

function initialize({ model }) {
  stores.set(model, new Store(model));
}

function storeOf(model) {
  if (!stores.has(model)) stores.set(model, new Store(model));
  return stores.get(model);
}

function render({ model, el: host }) {
  const store = storeOf(model);
  const view = new PanelView(store, host);
  view.setLive(true);
  const onLive = (live) => view.setLive(live);
  const onStatus = (_kernel, status) => ["dead", "restarting", "autorestarting"].includes(status) && onLive(false);
  const kernel = model.widget_manager?.kernel;
  kernel?.statusChanged?.connect?.(onStatus);
  model.send({ type: "ready" });
  return () => {
    kernel?.statusChanged?.disconnect?.(onStatus);
    store.views.delete(view);
    view.node.remove();
  };
}

export default { initialize, render };
