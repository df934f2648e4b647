// What the page knows: turns, and how messages from the kernel change them. Pure: no DOM, no time.

/** A new, empty state. */
export function newState() {
  return { order: [], turns: new Map() };
}

/** Take over a list of turns; a turn under way brings the stream it has so far. */
export function setTurns(state, turns) {
  state.order = turns.map((turn) => turn.id);
  state.turns = new Map(turns.map((turn) => [turn.id, withStream(turn)]));
}

/** A turn with the place where its streamed answer is kept. */
export function withStream(turn) {
  const { stream, ...rest } = turn;
  const start = stream ?? { seq: 0, html: "", text: "", n: 0 };
  const { seq, html, text: open, n, thought = "" } = start;
  return { ...rest, seq, html, open, n, thought };
}

/**
 * Change the state by one message of the kernel.
 * Returns what the views have to do: {kind: "all" | "turn" | "delta" | "progress" | "resync" | "none", …}.
 */
export function applyMessage(state, message) {
  switch (message.type) {
    case "turns":
      setTurns(state, message.turns);
      return { kind: "all" };
    case "turn": {
      const { id } = message.turn;
      const before = state.turns.get(id);
      if (message.rest !== undefined) {
        // The beginning of the answer is here already, from the stream.
        if (before?.seq !== message.seq) return { kind: "resync" };
        message.turn.answer = before.html + message.rest;
      }
      if (!before) state.order.push(id);
      state.turns.set(id, withStream(message.turn));
      return { kind: "turn", id };
    }
    case "sync": {
      for (const turn of message.turns) state.turns.set(turn.id, withStream(turn));
      for (const id of state.turns.keys()) if (!message.order.includes(id)) state.turns.delete(id);
      state.order = message.order;
      const isWhole = message.order.every((id) => state.turns.has(id));
      return isWhole ? { kind: "all" } : { kind: "resync" };
    }
    case "progress": {
      const turn = state.turns.get(message.id);
      if (!turn) return { kind: "none" };
      turn.waiting = message.text;
      turn.ahead = message.ahead;
      return { kind: "progress", id: message.id };
    }
    case "delta":
      return applyDelta(state, message);
    default:
      return { kind: "none" };
  }
}

/** Add words to an answer or to the thought before it; a gap in the numbers asks for everything again, an old one is dropped. */
function applyDelta(state, message) {
  const turn = state.turns.get(message.id);
  if (!turn) return { kind: "resync" };
  if (!isUnderWay(turn) || message.seq <= turn.seq) return { kind: "none" };
  if (message.seq !== turn.seq + 1) return { kind: "resync" };
  turn.state = "streaming";
  turn.seq = message.seq;
  turn.n = message.n;
  const thought = message.thought ?? "";
  turn.thought += thought;
  if (message.html !== undefined) {
    turn.html += message.html;
    turn.open = message.text;
  } else {
    turn.open += message.text;
  }
  return { kind: "delta", id: message.id, html: message.html, text: message.text, thought };
}

/** Whether an answer is being made. */
export function isUnderWay(turn) {
  return turn.state === "waiting" || turn.state === "streaming";
}

/**
 * How the open block of a streamed answer is shown: code in a fence without its markers, all else as it stands.
 * Returns {code: boolean, language: string, text: string}.
 */
export function openBlock(text) {
  const fence = /^(`{3,}|~{3,})[ \t]*([^\s`]*)[^\n]*\n/.exec(text);
  if (!fence) return { code: false, language: "", text };
  return { code: true, language: fence[2], text: text.slice(fence[0].length) };
}

/** Words for a number of tokens. */
export function countTokens(n) {
  return n === 1 ? "1 token" : `${n.toLocaleString("en-US")} tokens`;
}

/** Whether the model thinks still: it has said nothing of its answer. */
export function isThinking(turn) {
  return !!turn.thought && !turn.html && !turn.open.trim();
}

/** What stands below an answer that is streamed. */
export function streamStatus(turn) {
  return isThinking(turn) ? `Thinking, ${countTokens(turn.n)} so far` : countTokens(turn.n);
}

/** The turn whose answer is being made now, not waiting for others; null for none. */
export function underWay(state) {
  const turns = state.order.map((id) => state.turns.get(id)).filter((turn) => turn && isUnderWay(turn));
  return turns.find((turn) => turn.state === "streaming") ?? turns[0] ?? null;
}

/** The turns that wait for the answers of others, in the order in which they will be answered. */
export function waitingInLine(state) {
  const now = underWay(state);
  const turns = state.order.map((id) => state.turns.get(id));
  const waiting = turns.filter((turn) => turn !== now && turn.state === "waiting");
  return waiting.sort((a, b) => (a.ahead || Infinity) - (b.ahead || Infinity) || 0);
}

/** Those of them that stand at the end: they are listed as waiting, and are no turns yet. */
export function waitingAtEnd(state) {
  const waiting = new Set(waitingInLine(state).map(({ id }) => id));
  const end = state.order.findLastIndex((id) => !waiting.has(id)) + 1;
  return state.order.slice(end);
}

/** Whether there are turns after this one: those would become stale. */
export function hasLater(state, id) {
  const place = state.order.indexOf(id);
  return place >= 0 && place < state.order.length - 1;
}

/** All answers to a turn, oldest first; the last one is the answer that counts. */
export function answersOf(turn) {
  return [...(turn.alternatives ?? []), turn];
}

// Keys that a person presses while the focus is in a panel.

const EDITING = new Set(
  "a c v x y z Enter Tab Backspace Delete Home End Insert ArrowLeft ArrowRight ArrowUp ArrowDown".split(" "),
);

/** Whether a key goes on to the notebook: chords with Ctrl or Cmd, such as saving, that do not edit the text here. */
export function isForNotebook({ key, ctrlKey, metaKey, altKey }) {
  const isChord = (ctrlKey || metaKey) && !(ctrlKey && altKey); // Ctrl+Alt is AltGr, which types signs
  return isChord && !EDITING.has(key.length === 1 ? key.toLowerCase() : key);
}

// The input box: pictures stand in the text as marks, so that they keep their place.

/** The mark of picture number n (from 1). */
export function mark(n) {
  return `«picture ${n}»`;
}

/** Put a mark at the cursor, with a space on each side that needs one. Returns {text, cursor}. */
export function insertMark(text, start, end, n) {
  const before = text.slice(0, start);
  const after = text.slice(end);
  const left = before && !/\s$/.test(before) ? " " : "";
  const right = /^\s/.test(after) ? "" : " ";
  const inserted = left + mark(n) + right;
  return { text: before + inserted + after, cursor: before.length + inserted.length };
}

/** Take the mark of a picture out of the text, with one of the spaces around it. */
export function removeMark(text, n) {
  return text.replace(new RegExp(` ?${mark(n)}`, "g"), "").replace(/^ +/, "");
}

/** The beginning of a variable's name that stands before the cursor inside a brace, or null. */
export function namePrefix(text, cursor) {
  const found = /(?:^|[^{])\{([\p{L}_][\p{L}\p{N}_.]*)?$/u.exec(text.slice(0, cursor));
  return found ? (found[1] ?? "") : null;
}

/** Complete the name before the cursor; closes the brace. Returns {text, cursor}. */
export function completeName(text, cursor, prefix, name) {
  const before = text.slice(0, cursor - prefix.length) + name;
  const after = text.slice(cursor);
  const brace = after.startsWith("}") ? "" : "}";
  return { text: before + brace + after, cursor: before.length + 1 };
}
