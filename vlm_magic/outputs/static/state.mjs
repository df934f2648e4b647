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
  return { ...rest, seq: start.seq, html: start.html, open: start.text, n: start.n };
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
      return { kind: "progress", id: message.id };
    }
    case "delta":
      return applyDelta(state, message);
    default:
      return { kind: "none" };
  }
}

/** Add words to an answer; a gap in the numbers asks for everything again, an old one is dropped. */
function applyDelta(state, message) {
  const turn = state.turns.get(message.id);
  if (!turn) return { kind: "resync" };
  if (!isUnderWay(turn) || message.seq <= turn.seq) return { kind: "none" };
  if (message.seq !== turn.seq + 1) return { kind: "resync" };
  turn.state = "streaming";
  turn.seq = message.seq;
  turn.n = message.n;
  if (message.html !== undefined) {
    turn.html += message.html;
    turn.open = message.text;
  } else {
    turn.open += message.text;
  }
  return { kind: "delta", id: message.id, html: message.html, text: message.text };
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

/** All answers to a turn, oldest first; the last one is the answer that counts. */
export function answersOf(turn) {
  return [...(turn.alternatives ?? []), turn];
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
