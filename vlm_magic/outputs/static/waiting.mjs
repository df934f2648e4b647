// What stands between the turns and the box: questions that wait, and first questions for an empty conversation.
import { waitingAtEnd, waitingInLine } from "./state.mjs";
import { button, el } from "./parts.mjs";

const SHOWN_CHARS = 90;

function short(text) {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > SHOWN_CHARS ? `${line.slice(0, SHOWN_CHARS - 1)}…` : line;
}

/** The questions that wait for others, in the order in which they will be answered. */
export class Queue {
  constructor(store) {
    this.store = store;
    this.ids = "";
    this.list = el("ol", { "aria-label": "Waiting questions" });
    this.head = el("p", {});
    this.node = el("div", { class: "vlm-queue", hidden: true }, this.head, this.list);
  }

  /** Bring the list up to date; `turns` are the views of the turns, by id. */
  update(turns) {
    const { store } = this;
    const isListed = store.can("cancel") && store.isAlive();
    const waiting = isListed ? waitingInLine(store.state) : [];
    const atEnd = new Set(isListed ? waitingAtEnd(store.state) : []);
    for (const [id, view] of turns) view.node.hidden = atEnd.has(id);
    const ids = waiting.map((turn) => turn.id).join("\n");
    if (ids === this.ids) return;
    this.ids = ids;
    const had = [...this.list.querySelectorAll("button")].indexOf(document.activeElement);
    this.node.hidden = !waiting.length;
    this.head.textContent = waiting.length === 1 ? "1 question waits" : `${waiting.length} questions wait`;
    this.list.replaceChildren(...waiting.map((turn) => this.line(turn)));
    if (had < 0) return;
    const buttons = this.list.querySelectorAll("button");
    const next = buttons[Math.min(had, buttons.length - 1)] ?? this.node.parentNode.querySelector("textarea");
    next?.focus();
  }

  line(turn) {
    const words = short(turn.question_text);
    const cancel = button("close", `Cancel: ${words}`, () => this.store.act("cancel", turn.id), { quiet: true });
    return el("li", {}, el("span", { dir: "auto" }, words), cancel);
  }
}

/** Questions to begin with: one click puts them into the box, where they can be changed before they are sent. */
export function firstQuestions(store, composer) {
  const examples = store.model.get("menu")?.examples ?? [];
  if (!examples.length || !composer) return null;
  const one = (words) => {
    const put = el("button", { type: "button", class: "vlm-button", title: "Put this question into the box" }, words);
    put.addEventListener("click", () => composer.begin(words));
    return put;
  };
  return el("div", { class: "vlm-examples-row", role: "group", "aria-label": "Questions to begin with" }, ...examples.map(one));
}
