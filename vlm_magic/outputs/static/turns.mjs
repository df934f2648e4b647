// One question with its answer on the page.
import { answersOf, hasLater, isThinking, isUnderWay, openBlock, streamStatus } from "./state.mjs";
import { addCopyButtons, button, copyText, el, openPicture } from "./parts.mjs";
import { Composer } from "./composer.mjs";
import { RegionPicker } from "./region.mjs";

/** Shows one turn of a store, and says what the person does with it. */
export class TurnView {
  constructor(store, id, host, notify) {
    this.store = store;
    this.id = id;
    this.host = host; // where dialogs are put
    this.notify = notify; // shows a remark, "" takes it away
    this.shown = -1; // which of several answers; -1 is the one that counts
    this.question = el("div", { class: "vlm-body", dir: "auto" });
    this.userTools = el("div", { class: "vlm-tools" });
    this.userRole = el("p", { class: "vlm-role" });
    this.role = el("p", { class: "vlm-role" });
    this.blocks = el("div", { class: "vlm-blocks", "aria-live": "polite" });
    this.openCode = el("pre", { class: "vlm-open-code", hidden: true });
    this.openText = el("p", { class: "vlm-open", dir: "auto", hidden: true });
    this.thoughtWords = document.createTextNode("");
    this.thoughtLabel = el("small");
    const words = el("p", { class: "vlm-thinking", dir: "auto" }, this.thoughtWords);
    this.liveThought = el("details", { class: "vlm-thought" }, el("summary", {}, this.thoughtLabel), words);
    this.thought = el("div", { class: "vlm-thoughts" }); // stands above the answer, folded
    this.status = el("p", { class: "vlm-status" });
    this.foot = el("div", { class: "vlm-foot" });
    this.tools = el("div", { class: "vlm-tools" });
    this.user = el("div", { class: "vlm-turn vlm-user" });
    this.node = this.build();
    this.render();
  }

  build() {
    const answer = el("div", { class: "vlm-body" }, this.blocks, this.openCode, this.openText);
    const head = el("div", { class: "vlm-head" }, this.role, this.tools);
    const userHead = el("div", { class: "vlm-head" }, this.userRole, this.userTools);
    this.user.append(userHead, this.question);
    return el(
      "article",
      { class: "vlm-exchange" },
      this.user,
      el("div", { class: "vlm-turn vlm-model" }, head, this.thought, answer, this.status, this.foot),
    );
  }

  get turn() {
    return this.store.state.turns.get(this.id);
  }

  /** Show the whole turn anew. All HTML was made inert in the kernel. */
  render() {
    const { turn } = this;
    this.rendered = turn;
    this.node.classList.toggle("vlm-hidden-turn", !!turn.hidden);
    const hidden = turn.hidden ? el("span", { class: "vlm-badge" }, "hidden from the model") : null;
    this.userRole.replaceChildren(el("b", {}, "You"), ...(hidden ? [hidden] : []));
    const answers = answersOf(turn);
    if (this.shown >= answers.length - 1) this.shown = -1;
    const answer = answers.at(this.shown);
    if (!this.editor && this.asked !== questionOf(answer, turn)) this.showQuestion(answer);
    this.role.replaceChildren(el("b", {}, answer.speaker), ...badgesOf(answer.badges));
    if (turn.state === "done") this.settle(answer);
    else this.showStream(turn);
    addCopyButtons(this.blocks);
    this.showTools();
  }

  /** The question of the answer that is shown: an edited question has answers from before the edit. */
  showQuestion(answer = answersOf(this.turn).at(this.shown)) {
    this.asked = questionOf(answer, this.turn);
    this.question.innerHTML = this.asked;
    this.wirePictures();
  }

  /** Right below its cell a question of words alone is in sight: it is not repeated, only told to a screen reader. */
  showUser() {
    const { turn } = this;
    const isOwn = questionOf(answersOf(turn).at(this.shown), turn) === turn.question;
    this.user.hidden = !!turn.is_above && isOwn && !this.store.isWhole();
    if (this.user.hidden) this.node.setAttribute("aria-label", `Answer to: ${turn.source.slice(0, 200)}`);
    else this.node.removeAttribute("aria-label");
  }

  /** The finished answer; it was read out block by block, so it is not read out again. */
  settle(answer) {
    this.blocks.setAttribute("aria-live", "off");
    this.blocks.innerHTML = answer.answer;
    this.openText.hidden = this.openCode.hidden = true;
    this.openText.textContent = this.openCode.textContent = "";
    this.foot.innerHTML = answer.proof + (this.shown === -1 ? (this.turn.why ?? "") : "");
    wireWords(this.foot, this.store, this.id, this.host);
    this.settleThought();
    this.status.className = "vlm-status vlm-unseen";
    this.status.setAttribute("role", "status");
    this.status.textContent = "Answer complete.";
    this.node.removeAttribute("aria-busy");
  }

  /** The whole thought takes the place of the one that grew, open where the person had opened that. */
  settleThought() {
    const whole = this.foot.querySelector(".vlm-thought");
    if (whole && this.liveThought.isConnected) whole.open = this.liveThought.open;
    const hadFocus = this.thought.contains(document.activeElement);
    this.thought.replaceChildren(...(whole ? [whole] : []));
    if (hadFocus) whole?.querySelector("summary").focus();
    this.thoughtWords.data = "";
    this.liveThought.open = false;
  }

  /** What the model thinks before it answers, as plain words; it is not read out while it grows. */
  showThought(turn) {
    const isThere = this.liveThought.parentNode === this.thought;
    if (turn.thought && !isThere) this.thought.replaceChildren(this.liveThought);
    else if (!turn.thought) this.thought.replaceChildren();
    const label = isThinking(turn) ? "Thinking…" : "Thought before it answered";
    if (this.thoughtLabel.textContent !== label) this.thoughtLabel.textContent = label;
  }

  showStream(turn) {
    this.thoughtWords.data = turn.thought;
    this.showThought(turn);
    this.blocks.setAttribute("aria-live", "polite");
    this.blocks.innerHTML = turn.html;
    this.foot.replaceChildren();
    this.showOpen();
    this.showStatus();
  }

  delta(change) {
    if (change.thought) this.thoughtWords.appendData(change.thought);
    if (this.turn.thought) this.showThought(this.turn);
    if (change.html !== undefined) {
      this.blocks.insertAdjacentHTML("beforeend", change.html);
      addCopyButtons(this.blocks);
      this.showOpen();
    } else if (!this.openText.hidden && !this.mayBeCode) this.openText.append(change.text);
    else if (!this.openCode.hidden) this.openCode.append(change.text);
    else this.showOpen();
    this.showStatus();
    if (!this.tools.querySelector(".vlm-stop")) this.showTools();
  }

  showOpen() {
    const block = openBlock(this.turn.open);
    this.openCode.hidden = !block.code;
    this.openText.hidden = block.code || !block.text.trim();
    (block.code ? this.openCode : this.openText).textContent = block.text;
    this.mayBeCode = !block.code && /^[`~]/.test(block.text);
  }

  showStatus() {
    const { turn } = this;
    if (isUnderWay(turn)) this.node.setAttribute("aria-busy", "true");
    else this.node.removeAttribute("aria-busy");
    this.status.className = `vlm-status vlm-${turn.state}`;
    const words = turn.state === "streaming" ? streamStatus(turn) : turn.waiting;
    // A counter that changes many times a second is not read out.
    if (turn.state === "streaming") this.status.removeAttribute("role");
    else this.status.setAttribute("role", "status");
    if (this.status.textContent !== words) this.status.textContent = words;
  }

  showTools() {
    const { turn, store } = this;
    this.showUser();
    const can = (kind) => store.can(kind);
    const act = (kind, values) => () => store.act(kind, this.id, values);
    const quiet = { quiet: true };
    if (!store.isAlive()) {
      this.tools.replaceChildren();
      this.userTools.replaceChildren();
      unwireWords(this.foot);
      return;
    }
    if (isUnderWay(turn)) {
      this.tools.replaceChildren(...(can("stop") ? [this.stopButton()] : []));
      this.userTools.replaceChildren();
      return;
    }
    const answers = answersOf(turn);
    const isOlder = this.shown !== -1;
    const copy = button("copy", "Copy answer", () => copyText(answers.at(this.shown).text, copy), quiet);
    const tools = [
      answers.length > 1 && turn.state === "done" && this.pager(answers),
      isOlder && can("choose") && button("check", "Use this answer", act("choose", { alternative: this.shown })),
      turn.stale && can("refresh") && button("redo", "Update", act("refresh"), { title: "Ask again, as it was asked" }),
      turn.is_cut_off && !isOlder && store.canContinue() && button("more", "Continue", act("continue"), { title: "Go on with this answer" }),
      can("regenerate") && button("redo", "Another answer", () => this.another(), quiet),
      turn.state === "done" && turn.text && copy,
      turn.text && !isOlder && can("explain") && this.whyButton(act("explain")),
      can("open") && !store.isWhole() && button("chat", "Show the whole conversation", act("open"), quiet),
    ];
    this.tools.replaceChildren(...tools.filter(Boolean));
    const userTools = [
      can("edit") && button("edit", "Edit this message", () => this.edit(), quiet),
      can("hide") &&
        button(
          turn.hidden ? "show" : "hide",
          turn.hidden ? "Show this turn to the model" : "Hide this turn from the model",
          act("hide", { hidden: !turn.hidden }),
          quiet,
        ),
      can("delete") && button("trash", "Delete this turn", act("delete"), quiet),
    ];
    this.userTools.replaceChildren(...(this.editor ? [] : userTools.filter(Boolean)));
  }

  /** Ask once more; where the answer would be the same again, say so and offer what would change it. */
  another() {
    const { turn, store } = this;
    if (!turn.is_greedy || turn.stale || Number(store.model.get("settings")?.temperature) > 0) {
      store.act("regenerate", this.id);
      return;
    }
    const ask = (values) => () => store.act("regenerate", this.id, values);
    const words = "Without a temperature the most likely words are taken: the answer would be the same again.";
    const offer = el(
      "div",
      { class: "vlm-same", role: "status" },
      el("p", {}, words),
      button("redo", "Ask with temperature 0.7", ask({ temperature: 0.7 })),
      button("redo", "Ask anyway", ask({})),
    );
    this.foot.querySelector(".vlm-same")?.remove();
    this.foot.append(offer);
    offer.querySelector("button").focus();
  }

  /** Looks at why the answer is what it is; pressed again it stops, or takes away what it showed. */
  whyButton(press) {
    const { is_explaining: isUnderWay, why } = this.turn;
    if (isUnderWay) return button("stop", "Stop looking", press);
    return button("why", why ? "Hide the explanation" : "Explain this answer", press, { quiet: true });
  }

  stopButton() {
    const title =
      this.store.stopsBy() === "message"
        ? "Stop this answer"
        : "Stop by interrupting the kernel; this also ends a Run All";
    const stop = button(
      "stop",
      "Stop",
      () => {
        this.store.stop(this.id);
        stop.disabled = true;
        stop.querySelector("span").textContent = "Stopping";
      },
      { title },
    );
    stop.classList.add("vlm-stop");
    return stop;
  }

  /** ‹ 2/3 ›: looks at earlier answers; which one counts does not change by looking. */
  pager(answers) {
    const index = this.shown === -1 ? answers.length - 1 : this.shown;
    const go = (to) => () => {
      this.shown = to === answers.length - 1 ? -1 : to;
      this.render();
      this.tools.querySelector(`[data-step="${to > index ? 1 : -1}"]`)?.focus();
    };
    const step = (name, words, to) =>
      button(name, words, go(to), { quiet: true, disabled: !answers[to], "data-step": to > index ? 1 : -1 });
    return el(
      "span",
      { class: "vlm-pager", role: "group", "aria-label": "Answers to this question" },
      step("back", "Earlier answer", index - 1),
      el("span", {}, `${index + 1}/${answers.length}`),
      step("forward", "Later answer", index + 1),
    );
  }

  /** Edit the question in place, with all that a new message can have. */
  edit() {
    const shots = [...this.question.querySelectorAll(".vlm-pic")].map((shot) => shot.querySelector("img")?.src);
    const pictures = this.turn.names.map((name, kept) => [kept + 1, { name, url: shots[kept], kept }]);
    this.editor = new Composer(this.store, this.notify, {
      id: this.id,
      text: this.turn.source,
      pictures,
      hint: hasLater(this.store.state, this.id) ? "Later turns are marked stale." : "Paste or drop pictures, or {name}",
      onClose: () => {
        this.editor = null;
        this.showQuestion();
        this.showTools();
        this.userTools.querySelector("button")?.focus();
      },
    });
    this.question.replaceChildren(this.editor.node);
    this.userTools.replaceChildren();
    this.editor.grow();
    this.editor.box.focus();
  }

  wirePictures() {
    this.question.querySelectorAll(".vlm-pic").forEach((picture, index) => {
      const thumbnail = picture.querySelector("img");
      if (!thumbnail) return;
      thumbnail.decoding = "async";
      const label = picture.querySelector(".vlm-cap small")?.textContent ?? thumbnail.alt;
      const open = () => this.openPicture(index, thumbnail.src, label);
      picture.setAttribute("role", "button");
      picture.setAttribute("tabindex", "0");
      picture.setAttribute("aria-label", `Show ${label} in full`);
      picture.addEventListener("click", open);
      picture.addEventListener("keydown", (event) => {
        if (event.key !== "Enter" && event.key !== " ") return;
        event.preventDefault();
        event.stopPropagation();
        open();
      });
    });
  }

  /** The thumbnail at once, the full picture as soon as the kernel sends it. */
  openPicture(index, src, label) {
    const shown = openPicture(this.host, src, label);
    let url = "";
    this.store.onPicture = (message, bytes) => {
      if (message.id !== this.id || message.index !== index || !shown.dialog.isConnected) return;
      url = URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
      shown.replace(url);
      if (message.size && this.canAsk()) this.offerParts(shown.dialog, index, src, message.size);
    };
    shown.dialog.addEventListener("close", () => url && URL.revokeObjectURL(url));
    this.store.model.send({ type: "picture", id: this.id, index });
  }

  /** Whether there is a box for questions, or can be. */
  canAsk() {
    const { store } = this;
    return store.isAlive() && (store.isWhole() ? store.can("send") : store.can("open"));
  }

  /** Let a part of an opened picture be marked and asked about. */
  offerParts(dialog, index, src, size) {
    const name = this.turn.names[index] ?? "picture";
    const of = [this.id, index];
    new RegionPicker(dialog, name, size, (part) => {
      const detail = { whole: { name, url: src, of }, part: { ...part, of } };
      this.host.dispatchEvent(new CustomEvent("vlm-part", { detail }));
    });
  }
}

/** Words that might have come become buttons: the model goes on from there. What is saved has no buttons. */
export function wireWords(root, store, id, host) {
  const others = root.querySelectorAll("span.vlm-other");
  if (!others.length || !store.isAlive() || !store.can("continue_with") || !store.canContinue()) return;
  for (const other of others) {
    const { place, word } = other.dataset;
    const title = `Say “${word.trim()}” here instead and let the model go on: another answer of this turn`;
    const take = () => {
      host.tabIndex = -1; // the button goes; who came by keyboard stays in this panel
      host.focus({ preventScroll: true });
      store.act("continue_with", id, { place: Number(place), word });
    };
    for (const gap of [other.previousSibling, other.nextSibling]) if (gap) gap.textContent = gap.textContent.replace(/, $/, " ");
    other.replaceWith(el("button", { type: "button", class: "vlm-other", title, onclick: take }, other.textContent));
  }
  const summary = root.querySelector("details:has(.vlm-other) > summary small");
  summary?.append(": press one, and the model goes on from it");
}

/** The words of an answer that is no longer the one that counts, or that no kernel hears of. */
export function unwireWords(root) {
  for (const other of root.querySelectorAll("button.vlm-other")) other.disabled = true;
}

/** The HTML of the question that an answer belongs to. */
function questionOf(answer, turn) {
  return answer.question ?? turn.question;
}

function badgesOf(words) {
  return words.map((word) => el("span", { class: "vlm-badge" }, word));
}
