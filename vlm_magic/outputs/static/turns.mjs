// One question with its answer on the page.
import { answersOf, countTokens, isUnderWay, openBlock } from "./state.mjs";
import { addCopyButtons, button, copyText, el, openPicture } from "./parts.mjs";

/** Shows one turn of a store, and says what the person does with it. */
export class TurnView {
  constructor(store, id, host) {
    this.store = store;
    this.id = id;
    this.host = host; // where dialogs are put
    this.shown = -1; // which of several answers; -1 is the one that counts
    this.question = el("div", { class: "vlm-body" });
    this.userTools = el("div", { class: "vlm-tools" });
    this.userRole = el("p", { class: "vlm-role" });
    this.role = el("p", { class: "vlm-role" });
    this.blocks = el("div", { class: "vlm-blocks", "aria-live": "polite" });
    this.openCode = el("pre", { class: "vlm-open-code", hidden: true });
    this.openText = el("p", { class: "vlm-open", hidden: true });
    this.status = el("p", { class: "vlm-status" });
    this.foot = el("div", { class: "vlm-foot" });
    this.tools = el("div", { class: "vlm-tools" });
    this.node = this.build();
    this.render();
  }

  build() {
    const answer = el("div", { class: "vlm-body" }, this.blocks, this.openCode, this.openText);
    const head = el("div", { class: "vlm-head" }, this.role, this.tools);
    const userHead = el("div", { class: "vlm-head" }, this.userRole, this.userTools);
    return el(
      "article",
      { class: "vlm-exchange" },
      el("div", { class: "vlm-turn vlm-user" }, userHead, this.question),
      el("div", { class: "vlm-turn vlm-model" }, head, answer, this.status, this.foot),
    );
  }

  get turn() {
    return this.store.state.turns.get(this.id);
  }

  /** Show the whole turn anew. All HTML was made inert in the kernel. */
  render() {
    const { turn } = this;
    this.rendered = turn;
    if (!this.isEditing && this.asked !== turn.question) this.showQuestion();
    this.node.classList.toggle("vlm-hidden-turn", !!turn.hidden);
    const hidden = turn.hidden ? el("span", { class: "vlm-badge" }, "hidden from the model") : null;
    this.userRole.replaceChildren(el("b", {}, "You"), ...(hidden ? [hidden] : []));
    const answers = answersOf(turn);
    if (this.shown >= answers.length - 1) this.shown = -1;
    const answer = answers.at(this.shown);
    this.role.replaceChildren(el("b", {}, answer.speaker), ...badgesOf(answer.badges));
    if (turn.state === "done") this.settle(answer);
    else this.showStream(turn);
    addCopyButtons(this.blocks);
    this.showTools();
  }

  showQuestion() {
    this.asked = this.turn.question;
    this.question.innerHTML = this.asked;
    this.wirePictures();
  }

  /** The finished answer; it was read out block by block, so it is not read out again. */
  settle(answer) {
    this.blocks.setAttribute("aria-live", "off");
    this.blocks.innerHTML = answer.answer;
    this.openText.hidden = this.openCode.hidden = true;
    this.openText.textContent = this.openCode.textContent = "";
    this.foot.innerHTML = answer.proof;
    this.status.className = "vlm-status vlm-unseen";
    this.status.setAttribute("role", "status");
    this.status.textContent = "Answer complete.";
    this.node.removeAttribute("aria-busy");
  }

  showStream(turn) {
    this.blocks.setAttribute("aria-live", "polite");
    this.blocks.innerHTML = turn.html;
    this.foot.replaceChildren();
    this.showOpen();
    this.showStatus();
  }

  delta(change) {
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
    const words = turn.state === "streaming" ? countTokens(turn.n) : turn.waiting;
    // A counter that changes many times a second is not read out.
    if (turn.state === "streaming") this.status.removeAttribute("role");
    else this.status.setAttribute("role", "status");
    if (this.status.textContent !== words) this.status.textContent = words;
  }

  showTools() {
    const { turn, store } = this;
    const can = (kind) => store.can(kind);
    const act = (kind, values) => () => store.act(kind, this.id, values);
    const quiet = { quiet: true };
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
      can("regenerate") && button("redo", "Another answer", act("regenerate"), quiet),
      turn.state === "done" && turn.text && copy,
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
    this.userTools.replaceChildren(...(this.isEditing ? [] : userTools.filter(Boolean)));
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

  /** Edit the question in place; its pictures stay as marks in the text. */
  edit() {
    const box = el("textarea", { class: "vlm-input", "aria-label": "Edit this message", rows: 2 });
    box.value = this.turn.source;
    const close = () => {
      this.isEditing = false;
      this.showQuestion();
      this.showTools();
      this.userTools.querySelector("button")?.focus();
    };
    const save = () => {
      this.store.act("edit", this.id, { text: box.value });
      close();
    };
    box.addEventListener("keydown", (event) => {
      event.stopPropagation();
      if (event.key === "Escape") close();
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
        event.preventDefault();
        save();
      }
    });
    const later = el("p", { class: "vlm-hint" }, "Later turns are marked stale.");
    const buttons = [button("check", "Ask again", save), button("close", "Cancel", close)];
    this.question.replaceChildren(box, el("div", { class: "vlm-row" }, later, ...buttons));
    this.userTools.replaceChildren();
    this.isEditing = true;
    box.focus();
  }

  wirePictures() {
    this.question.querySelectorAll(".vlm-pic").forEach((picture, index) => {
      const thumbnail = picture.querySelector("img");
      if (!thumbnail) return;
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
    };
    shown.dialog.addEventListener("close", () => url && URL.revokeObjectURL(url));
    this.store.model.send({ type: "picture", id: this.id, index });
  }
}

function badgesOf(words) {
  return words.map((word) => el("span", { class: "vlm-badge" }, word));
}
