// A canvas to draw on with a mouse, a finger, a pen or the arrow keys.

import { el, icon, toast } from "./dom.js";

const SIDE = 512;
const KEYS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Strokes on a canvas; subclasses decide what lies beneath and what comes out. */
export class Drawing {
  constructor(root, { label, tools = true, width = 14 }) {
    this.canvas = el("canvas", { width: SIDE, height: SIDE, tabindex: 0, role: "img", "aria-label": `${label}. Draw with the pointer, or move with the arrow keys and hold Shift to draw.` });
    this.context = this.canvas.getContext("2d", { willReadFrequently: true });
    this.strokes = [];
    this.width = width;
    this.erasing = false;
    this.pen = [SIDE / 2, SIDE / 2];
    this.size = el("input", { type: "range", min: 3, max: 80, value: width, "aria-label": "Width of the pen" });
    this.size.addEventListener("input", () => (this.width = Number(this.size.value)));
    this.eraser = el("button.button.small", { type: "button", "aria-pressed": "false", onclick: () => this.erase(!this.erasing) }, "Eraser");
    const undo = el("button.icon", { type: "button", "aria-label": "Undo", title: "Undo", onclick: () => this.undo() }, icon("undo"));
    const clear = el("button.button.small", { type: "button", onclick: () => this.clear() }, "Clear");
    this.tools = el("div.drawing-tools", {}, el("span.range.bare", {}, this.size), this.eraser, undo, clear);
    root.append(el("div.paper", {}, this.canvas), tools ? this.tools : "");
    this.#listen();
    this.paint();
  }

  /** Take the proportions of (C, H, W). */
  fit([, height, width]) {
    const scale = SIDE / Math.max(height, width);
    const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
    if (this.canvas.width !== w || this.canvas.height !== h) Object.assign(this.canvas, { width: w, height: h });
    this.paint();
  }

  get isBlank() {
    return this.strokes.length === 0;
  }

  erase(on) {
    this.erasing = on;
    this.eraser.setAttribute("aria-pressed", String(on));
  }

  undo() {
    this.strokes.pop();
    this.paint();
  }

  clear() {
    this.strokes = [];
    this.paint();
  }

  paint() {
    const { context, canvas } = this;
    context.globalCompositeOperation = "source-over";
    this.background();
    for (const stroke of this.strokes) this.#draw(stroke);
    context.globalCompositeOperation = "source-over";
    if (document.activeElement === canvas && canvas.matches(":focus-visible")) this.#cursor();
  }

  background() {
    this.context.clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  ink(erasing) {
    return erasing ? "#ffffff" : "#1d1b18";
  }

  #draw({ points, width, erasing }) {
    const { context } = this;
    context.globalCompositeOperation = this.cuts && erasing ? "destination-out" : "source-over";
    context.strokeStyle = context.fillStyle = this.ink(erasing);
    context.lineWidth = width;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    const [[x, y], ...rest] = points;
    if (!rest.length) {
      context.arc(x, y, width / 2, 0, 7);
      return context.fill();
    }
    context.moveTo(x, y);
    // Through the middles between points, so that a quick hand leaves curves.
    for (let i = 1; i < points.length - 1; i++) {
      const [a, b] = [points[i], points[i + 1]];
      context.quadraticCurveTo(a[0], a[1], (a[0] + b[0]) / 2, (a[1] + b[1]) / 2);
    }
    context.lineTo(...points.at(-1));
    context.stroke();
  }

  #cursor() {
    const { context, pen } = this;
    context.strokeStyle = "#2e6aa8";
    context.lineWidth = 2;
    context.beginPath();
    context.arc(...pen, this.width / 2 + 3, 0, 7);
    context.stroke();
  }

  #listen() {
    const { canvas } = this;
    const at = (event) => {
      const box = canvas.getBoundingClientRect();
      return [((event.clientX - box.left) * canvas.width) / box.width, ((event.clientY - box.top) * canvas.height) / box.height];
    };
    let stroke = null;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      canvas.setPointerCapture(event.pointerId);
      stroke = { points: [at(event)], width: this.width, erasing: this.erasing };
      this.strokes.push(stroke);
      this.paint();
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!stroke) return;
      const moves = event.getCoalescedEvents?.() ?? [];
      stroke.points.push(...(moves.length ? moves : [event]).map(at));
      this.paint();
    });
    const end = () => {
      if (stroke) this.changed?.();
      stroke = null;
    };
    canvas.addEventListener("pointerup", end);
    canvas.addEventListener("pointercancel", end);
    let keyed = null;
    canvas.addEventListener("keydown", (event) => {
      const way = KEYS[event.key];
      if ((event.ctrlKey || event.metaKey) && event.key === "z") return this.undo();
      if (!way) return;
      event.preventDefault();
      const step = event.altKey ? 2 : 12;
      const before = this.pen;
      this.pen = this.pen.map((value, k) => Math.min(Math.max(value + step * way[k], 0), k ? canvas.height : canvas.width));
      if (event.shiftKey) {
        if (!keyed) this.strokes.push((keyed = { points: [before], width: this.width, erasing: this.erasing }));
        keyed.points.push(this.pen);
        this.changed?.();
      } else keyed = null;
      this.paint();
    });
    canvas.addEventListener("keyup", ({ key }) => key === "Shift" && (keyed = null));
    canvas.addEventListener("focus", () => this.paint());
    canvas.addEventListener("blur", () => this.paint());
  }
}

/** A picture over a whole canvas, cut in the middle as the server cuts it. */
export function drawMiddle(context, picture) {
  const { width, height } = context.canvas;
  const scale = Math.min(picture.width / width, picture.height / height);
  const [w, h] = [width * scale, height * scale];
  context.drawImage(picture, (picture.width - w) / 2, (picture.height - h) / 2, w, h, 0, 0, width, height);
}

/** Dark lines on white paper, or a picture in their place; out comes white on black. */
export class Sketch extends Drawing {
  constructor(root) {
    super(root, { label: "Sketch", width: 12 });
    this.picture = this.given = null;
    const choose = el("input", { type: "file", accept: "image/*", class: "unseen", "aria-label": "A picture as the sketch" });
    choose.addEventListener("change", () => {
      if (choose.files[0]) this.load(choose.files[0]);
      choose.value = ""; // the same file may be chosen again
    });
    const save = el("button.icon", { type: "button", "aria-label": "Save the sketch", title: "Save the sketch", onclick: () => this.save() }, icon("save"));
    this.tools.append(el("span.together", {}, el("label.button.small", {}, choose, "Picture…"), save));
  }

  background() {
    this.context.fillStyle = "#ffffff";
    this.context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    if (this.picture) drawMiddle(this.context, this.picture);
  }

  clear() {
    this.picture = this.given = null;
    super.clear();
  }

  /** A picture in place of strokes; it goes out as it came until something is drawn on it. */
  async load(file) {
    const picture = await createImageBitmap(file).catch(() => null);
    if (!picture) return toast(`${file.name} is no picture that this browser can read`);
    this.picture = picture;
    this.strokes = [];
    this.given = file;
    this.paint();
  }

  /** A sketch that `file` gave before. */
  async restore(file) {
    this.clear();
    const light = await createImageBitmap(file).catch(() => null);
    if (!light) return toast("Its sketch cannot be read: draw it again");
    this.picture = inverted(light);
    this.given = file;
    this.paint();
  }

  async save() {
    const url = URL.createObjectURL(await this.file());
    el("a", { href: url, download: "sketch.png" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  }

  get isEmpty() {
    return this.isBlank && !this.picture;
  }

  /** The sketch as a ControlNet reads scribbles: white lines on black. */
  async file() {
    if (this.given && this.isBlank) return this.given;
    this.canvas.blur();
    this.paint();
    const light = await inverted(this.canvas).convertToBlob({ type: "image/png" });
    return new File([light], "sketch.png", { type: "image/png" });
  }
}

function inverted(image) {
  const copy = new OffscreenCanvas(image.width, image.height);
  const context = copy.getContext("2d");
  context.filter = "invert(1) grayscale(1)";
  context.drawImage(image, 0, 0);
  return copy;
}
