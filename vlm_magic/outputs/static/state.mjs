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
      if (!state.turns.has(id)) state.order.push(id);
      state.turns.set(id, withStream(message.turn));
      return { kind: "turn", id };
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
  if (turn.state === "done" || turn.state === "failed" || message.seq <= turn.seq) return { kind: "none" };
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
