// A part of an opened picture: dragged, or set with keys and numbers, then asked about.
import { button, el } from "./parts.mjs";

/** A whole number within [low, high]. */
function within(n, low, high) {
  return Math.min(high, Math.max(low, Math.round(n)));
}

/** The part between two corners [x, y], in pixels of a picture of `size`: {x, y, width, height}, at least one pixel. */
export function regionBetween([ax, ay], [bx, by], [width, height]) {
  const left = within(Math.min(ax, bx), 0, width - 1);
  const top = within(Math.min(ay, by), 0, height - 1);
  const right = within(Math.max(ax, bx), left + 1, width);
  const bottom = within(Math.max(ay, by), top + 1, height);
  return { x: left, y: top, width: right - left, height: bottom - top };
}

/** The part elsewhere, as large as it was, within the picture. */
export function movedRegion(region, dx, dy, [width, height]) {
  const x = within(region.x + dx, 0, width - region.width);
  const y = within(region.y + dy, 0, height - region.height);
  return { ...region, x, y };
}

/** The part with its lower right corner elsewhere. */
export function resizedRegion({ x, y, width, height }, dx, dy, size) {
  return regionBetween([x, y], [Math.max(x + 1, x + width + dx), Math.max(y + 1, y + height + dy)], size);
}

/** How a part is called, as numpy would slice it: rows, then columns. A part of a part is called by its place in the whole. */
export function regionName(name, { x, y, width, height }) {
  const part = /\[(\d+):\d+, (\d+):\d+\]$/.exec(name);
  const [top, left] = part ? [y + Number(part[1]), x + Number(part[2])] : [y, x];
  const whole = part ? name.slice(0, part.index) : name;
  return `${whole || "picture"}[${top}:${top + height}, ${left}:${left + width}]`;
}

/** Where a picture lies in its element, which may have room beside it: {left, top, scale}, in the page's pixels. */
export function placeOf([boxWidth, boxHeight], [width, height]) {
  const scale = Math.min(boxWidth / width, boxHeight / height) || 1;
  return { left: (boxWidth - width * scale) / 2, top: (boxHeight - height * scale) / 2, scale };
}

const CORNERS = { "top-left": [0, 0], "top-right": [1, 0], "bottom-left": [0, 1], "bottom-right": [1, 1] };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Lets a person mark a part of the picture in a dialog. */
export class RegionPicker {
  /** `size` is that of the full picture; `onAsk` gets the part and a small picture of it. */
  constructor(dialog, name, size, onAsk) {
    Object.assign(this, { dialog, name, size, onAsk, region: null });
    this.image = dialog.querySelector("img");
    this.image.draggable = false;
    this.box = el("div", {
      class: "vlm-marked",
      tabindex: 0,
      role: "application",
      "aria-label": "Marked part: arrow keys move it, with Shift they change its size, Enter asks about it",
      hidden: true,
    });
    this.box.append(...Object.keys(CORNERS).map((corner) => el("span", { class: `vlm-grip vlm-${corner}` })));
    this.stage = el("div", { class: "vlm-stage" });
    this.image.replaceWith(this.stage);
    this.stage.append(this.image, this.box);
    this.tools = el("div", { class: "vlm-region", role: "group", "aria-label": "A part of the picture" });
    this.build();
    dialog.querySelector("figure").append(this.tools);
    this.listen();
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(this.image);
    dialog.addEventListener("close", () => this.watch.disconnect());
  }

  build() {
    const field = (words, [from, to]) => {
      const input = (name, label) => {
        const made = el("input", { type: "number", name, min: 0, step: 1, "aria-label": label });
        made.addEventListener("change", () => this.read());
        return made;
      };
      return el("span", {}, words, input(from, `${words}, from`), "to", input(to, `${words}, to`));
    };
    this.begin = button("crop", "Ask about a part", () => this.start(), { title: "Mark a part of the picture" });
    this.hint = el("span", { class: "vlm-hint" }, "or drag over the picture");
    this.fields = el("form", { hidden: true }, field("Rows", ["top", "bottom"]), field("Columns", ["left", "right"]));
    this.fields.addEventListener("submit", (event) => event.preventDefault());
    this.said = el("output", { class: "vlm-slices", "aria-live": "polite" });
    this.go = button("chat", "Ask about this part", () => this.ask(), { hidden: true });
    this.go.classList.add("vlm-primary");
    this.drop = button("close", "Whole picture", () => this.set(null), { hidden: true, title: "Mark nothing" });
    this.tools.append(this.begin, this.hint, this.fields, this.said, this.drop, this.go);
  }

  listen() {
    this.stage.addEventListener("pointerdown", (event) => this.press(event));
    this.box.addEventListener("keydown", (event) => this.key(event));
  }

  /** Begin with the middle of the picture. */
  start() {
    const [width, height] = this.size;
    this.set(regionBetween([width / 4, height / 4], [(width * 3) / 4, (height * 3) / 4], this.size));
    this.box.focus();
  }

  /** Where the pointer is, in pixels of the full picture. */
  at(event) {
    const frame = this.image.getBoundingClientRect();
    const { left, top, scale } = placeOf([frame.width, frame.height], this.size);
    return [(event.clientX - frame.left - left) / scale, (event.clientY - frame.top - top) / scale];
  }

  /** A press begins a new part; on the marked one it moves it, on a corner of it that corner. */
  press(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    const from = this.at(event);
    const before = this.region;
    const corner = Object.keys(CORNERS).find((name) => event.target.classList.contains(`vlm-${name}`));
    const isMove = before && !corner && event.target === this.box;
    const fixed = corner && [
      before.x + (CORNERS[corner][0] ? 0 : before.width),
      before.y + (CORNERS[corner][1] ? 0 : before.height),
    ];
    const follow = (moved) => {
      const to = this.at(moved);
      const isClick = Math.hypot(moved.clientX - event.clientX, moved.clientY - event.clientY) < 4;
      if (isMove) this.set(movedRegion(before, to[0] - from[0], to[1] - from[1], this.size));
      else if (corner) this.set(regionBetween(fixed, to, this.size));
      else if (!isClick) this.set(regionBetween(from, to, this.size));
    };
    const end = () => {
      this.stage.removeEventListener("pointermove", follow);
      if (this.region) this.box.focus({ preventScroll: true });
    };
    this.stage.setPointerCapture(event.pointerId);
    this.stage.addEventListener("pointermove", follow);
    this.stage.addEventListener("lostpointercapture", end, { once: true });
  }

  key(event) {
    if (event.key === "Enter") {
      event.preventDefault();
      this.ask();
      return;
    }
    const arrow = ARROWS[event.key];
    if (!arrow) return;
    event.preventDefault();
    const step = this.size.map((n) => (event.ctrlKey || event.metaKey ? 1 : Math.max(1, Math.round(n / 50))));
    const change = event.shiftKey ? resizedRegion : movedRegion;
    this.set(change(this.region, arrow[0] * step[0], arrow[1] * step[1], this.size));
  }

  /** Take what the number fields say. */
  read() {
    const [left, top, right, bottom] = ["left", "top", "right", "bottom"].map((name) => Number(this.fields.elements[name].value));
    this.set(regionBetween([left, top], [right, bottom], this.size));
  }

  set(region) {
    const hadFocus = this.tools.contains(document.activeElement) || document.activeElement === this.box;
    this.region = region;
    const isMarked = !!region;
    this.begin.hidden = this.hint.hidden = isMarked;
    for (const part of [this.box, this.fields, this.go, this.drop, this.said]) part.hidden = !isMarked;
    this.said.textContent = isMarked ? regionName(this.name, region) : "";
    if (isMarked) {
      const { x, y, width, height } = region;
      const values = { left: x, top: y, right: x + width, bottom: y + height };
      for (const [name, value] of Object.entries(values)) this.fields.elements[name].value = value;
      this.draw();
    } else if (hadFocus) this.begin.focus();
  }

  /** Put the frame over the part. */
  draw() {
    if (!this.region) return;
    const { x, y, width, height } = this.region;
    const { left, top, scale } = placeOf([this.image.clientWidth, this.image.clientHeight], this.size);
    const style = {
      left: this.image.offsetLeft + left + x * scale,
      top: this.image.offsetTop + top + y * scale,
      width: width * scale,
      height: height * scale,
    };
    for (const [name, value] of Object.entries(style)) this.box.style[name] = `${value}px`;
  }

  ask() {
    const { x, y, width, height } = this.region;
    const part = { region: [x, y, width, height], name: regionName(this.name, this.region), url: this.small() };
    this.dialog.close(); // first, for it gives the focus back to where it was
    this.onAsk(part);
  }

  /** A small picture of the part, from what the page shows. */
  small() {
    const { x, y, width, height } = this.region;
    const scale = this.image.naturalWidth / this.size[0];
    const shrink = Math.min(1, 112 / (Math.max(width, height) * scale));
    const canvas = el("canvas");
    canvas.width = Math.max(1, width * scale * shrink);
    canvas.height = Math.max(1, height * scale * shrink);
    const from = [x, y, width, height].map((n) => n * scale);
    canvas.getContext("2d").drawImage(this.image, ...from, 0, 0, canvas.width, canvas.height);
    return canvas.toDataURL("image/png");
  }
}
