// The page's own logic, without a page: node --test tests/chat.test.mjs
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  answersOf,
  applyMessage,
  completeName,
  countTokens,
  hasLater,
  insertMark,
  isForNotebook,
  isThinking,
  isUnderWay,
  namePrefix,
  newState,
  openBlock,
  removeMark,
  setTurns,
  streamStatus,
  underWay,
  waitingAtEnd,
  waitingInLine,
} from "../vlm_magic/outputs/static/state.mjs";

const turn = (id, state = "waiting", more = {}) => ({ id, state, waiting: "Starting", ...more });

function started() {
  const state = newState();
  setTurns(state, [turn("a")]);
  return state;
}

test("words are added in order", () => {
  const state = started();
  assert.equal(applyMessage(state, { type: "delta", id: "a", seq: 1, text: "Hello", n: 1 }).kind, "delta");
  applyMessage(state, { type: "delta", id: "a", seq: 2, text: " you", n: 2 });
  assert.equal(state.turns.get("a").open, "Hello you");
  assert.equal(state.turns.get("a").state, "streaming");
});

test("finished blocks move from the open text into the HTML", () => {
  const state = started();
  applyMessage(state, { type: "delta", id: "a", seq: 1, text: "One.\n", n: 1 });
  applyMessage(state, { type: "delta", id: "a", seq: 2, html: "<p>One.</p>", text: "Tw", n: 2 });
  const { html, open } = state.turns.get("a");
  assert.deepEqual([html, open], ["<p>One.</p>", "Tw"]);
});

test("a gap asks for everything again, and a repeated message is dropped", () => {
  const state = started();
  applyMessage(state, { type: "delta", id: "a", seq: 1, text: "x", n: 1 });
  assert.equal(applyMessage(state, { type: "delta", id: "a", seq: 3, text: "z", n: 3 }).kind, "resync");
  assert.equal(applyMessage(state, { type: "delta", id: "a", seq: 1, text: "x", n: 1 }).kind, "none");
  assert.equal(applyMessage(state, { type: "delta", id: "nobody", seq: 1, text: "x", n: 1 }).kind, "resync");
  assert.equal(state.turns.get("a").open, "x");
});

test("a snapshot in the middle of an answer goes on from there", () => {
  const state = newState();
  applyMessage(state, { type: "turns", turns: [turn("a", "streaming", { stream: { seq: 7, html: "<p>1</p>", text: "2", n: 9 } })] });
  assert.equal(applyMessage(state, { type: "delta", id: "a", seq: 7, text: "old", n: 9 }).kind, "none");
  applyMessage(state, { type: "delta", id: "a", seq: 8, text: "3", n: 10 });
  assert.equal(state.turns.get("a").open, "23");
});

test("a thought grows apart from the answer, and is counted until the answer begins", () => {
  const state = started();
  const change = applyMessage(state, { type: "delta", id: "a", seq: 1, text: "", thought: "Is <b>", n: 2 });
  assert.deepEqual([change.kind, change.text, change.thought], ["delta", "", "Is <b>"]);
  applyMessage(state, { type: "delta", id: "a", seq: 2, text: "", thought: " it", n: 1200 });
  const one = state.turns.get("a");
  assert.deepEqual([one.thought, one.open, isThinking(one)], ["Is <b> it", "", true]);
  assert.equal(streamStatus(one), "Thinking, 1,200 tokens so far");
  applyMessage(state, { type: "delta", id: "a", seq: 3, text: "Red.", n: 1202 });
  assert.deepEqual([one.thought, one.open, isThinking(one)], ["Is <b> it", "Red.", false]);
  assert.equal(streamStatus(one), "1,202 tokens");
  setTurns(state, [turn("a", "streaming", { stream: { seq: 4, html: "", text: "", thought: "Is", n: 1 } })]);
  assert.equal(state.turns.get("a").thought, "Is");
  setTurns(state, [turn("a", "done")]);
  assert.equal(isThinking(state.turns.get("a")), false);
});

test("an answer ends with the rest that was not streamed", () => {
  const state = started();
  applyMessage(state, { type: "delta", id: "a", seq: 1, html: "<p>1</p>", text: "2", n: 2 });
  const end = (seq) => applyMessage(state, { type: "turn", turn: turn("a", "done", { answer: null }), seq, rest: "<p>2</p>" });
  assert.equal(end(3).kind, "resync", "an update is missing");
  assert.equal(end(1).kind, "turn");
  assert.equal(state.turns.get("a").answer, "<p>1</p><p>2</p>");
});

test("only what changed is sent, and what is gone goes", () => {
  const state = started();
  const sync = (order, turns) => applyMessage(state, { type: "sync", order, turns }).kind;
  assert.equal(sync(["b", "a"], [turn("b", "done")]), "all");
  assert.deepEqual([...state.turns.keys()].sort(), ["a", "b"]);
  assert.deepEqual(state.order, ["b", "a"]);
  assert.equal(sync(["b"], []), "all");
  assert.equal(state.turns.has("a"), false);
  assert.equal(sync(["b", "c"], []), "resync");
});

test("a finished answer takes no more words", () => {
  const state = started();
  applyMessage(state, { type: "turn", turn: turn("a", "done", { answer: "<p>x</p>" }) });
  assert.equal(applyMessage(state, { type: "delta", id: "a", seq: 1, text: "late", n: 1 }).kind, "none");
  assert.equal(isUnderWay(state.turns.get("a")), false);
});

test("a new turn goes to the end, a known one keeps its place", () => {
  const state = started();
  applyMessage(state, { type: "turn", turn: turn("b") });
  applyMessage(state, { type: "turn", turn: turn("a", "done") });
  assert.deepEqual(state.order, ["a", "b"]);
});

test("progress is kept for views that come later", () => {
  const state = started();
  assert.equal(applyMessage(state, { type: "progress", id: "a", text: "Reading" }).kind, "progress");
  assert.equal(state.turns.get("a").waiting, "Reading");
  assert.equal(applyMessage(state, { type: "progress", id: "b", text: "x" }).kind, "none");
  assert.equal(applyMessage(state, { type: "unheard of" }).kind, "none");
});

test("an open code block is shown without its fence", () => {
  assert.deepEqual(openBlock("```python\nx = 1"), { code: true, language: "python", text: "x = 1" });
  assert.equal(openBlock("```py").code, false);
  assert.equal(openBlock("a ``` b\n").code, false);
});

test("earlier answers come first, the one that counts last", () => {
  const current = turn("a", "done", { alternatives: [{ text: "old" }] });
  assert.deepEqual(answersOf(current).map(({ text }) => text), ["old", undefined]);
  assert.equal(answersOf(turn("a")).length, 1);
});

test("tokens are counted in words", () => {
  assert.equal(countTokens(1), "1 token");
  assert.equal(countTokens(1234), "1,234 tokens");
});

test("a picture's mark goes to the cursor, with spaces where words touch", () => {
  assert.deepEqual(insertMark("seethis", 3, 3, 1), { text: "see «picture 1» this", cursor: 16 });
  assert.equal(insertMark("", 0, 0, 2).text, "«picture 2» ");
  assert.equal(insertMark("a b", 2, 3, 1).text, "a «picture 1» ");
});

test("taking a picture away takes its mark away, and no other", () => {
  assert.equal(removeMark("a «picture 1» b «picture 11»", 1), "a b «picture 11»");
  assert.equal(removeMark("«picture 1» b", 1), "b");
});

test("a name is completed inside a brace that the person opened", () => {
  assert.equal(namePrefix("what is {ca", 11), "ca");
  assert.equal(namePrefix("what is {", 9), "");
  assert.equal(namePrefix("what is {cat.size", 17), "cat.size");
  assert.equal(namePrefix("{{ca", 4), null);
  assert.equal(namePrefix("what is ca", 10), null);
  assert.equal(namePrefix("{cat} and", 9), null);
  assert.equal(namePrefix("{größe", 6), "größe");
  assert.deepEqual(completeName("see {ca now", 7, "ca", "cat"), { text: "see {cat} now", cursor: 9 });
  assert.deepEqual(completeName("see {ca}", 7, "ca", "cat"), { text: "see {cat}", cursor: 9 });
});

test("chords that do not edit text go on to the notebook", () => {
  const key = (name, more = {}) => ({ key: name, ctrlKey: false, metaKey: false, altKey: false, ...more });
  const chord = { ctrlKey: true };
  for (const name of ["s", "S", "b", "1", "F5", "."]) {
    assert.equal(isForNotebook(key(name, chord)), true, name);
    assert.equal(isForNotebook(key(name, { metaKey: true })), true, name);
    assert.equal(isForNotebook(key(name)), false, name);
  }
  for (const name of ["a", "C", "v", "x", "z", "y", "Enter", "Backspace", "ArrowLeft"]) {
    assert.equal(isForNotebook(key(name, chord)), false, name);
  }
  assert.equal(isForNotebook(key("{", { ctrlKey: true, altKey: true })), false, "AltGr types signs");
});

test("the answer that Stop means is the one being made, not one that waits", () => {
  const state = newState();
  setTurns(state, [turn("a", "done"), turn("b"), turn("c", "streaming")]);
  assert.equal(underWay(state).id, "c");
  setTurns(state, [turn("a", "done"), turn("b"), turn("c")]);
  assert.equal(underWay(state).id, "b");
  setTurns(state, [turn("a", "done")]);
  assert.equal(underWay(state), null);
});

test("only turns with others after them have later ones", () => {
  const state = newState();
  setTurns(state, [turn("a"), turn("b")]);
  assert.deepEqual(["a", "b", "c"].map((id) => hasLater(state, id)), [true, false, false]);
});

test("questions wait in the order in which they will be answered", () => {
  const state = newState();
  const turns = [
    turn("edited", "waiting", { ahead: 2 }),
    turn("first", "streaming"),
    turn("second", "waiting", { ahead: 1 }),
    turn("done", "done"),
    turn("newest", "waiting"),
  ];
  setTurns(state, turns);
  assert.deepEqual(waitingInLine(state).map(({ id }) => id), ["second", "edited", "newest"]);
  assert.deepEqual(waitingAtEnd(state), ["newest"], "the others stand among turns");
  setTurns(state, [turn("alone")]);
  assert.deepEqual(waitingInLine(state), [], "it is the one that is answered next");
});
