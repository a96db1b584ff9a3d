// Charts as SVG: letters and colours are the page's, and what they show is in words as well.

import { el, svg } from "./dom.js";

const [HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [220, 50, 14, 12, 38];
// A chart is as wide as it is shown, so that its letters keep their size.
const shown = (wide) => Math.min(wide, innerWidth <= 800 ? 350 : innerWidth <= 1080 ? 460 : wide);
let WIDTH = 560;

export const fixed = (value, digits = 3) => (value === null || value === undefined || Number.isNaN(value) ? "?" : value.toFixed(digits).replace("-", "−"));

/** Digits so that an error has two of them. */
export function withError(value, error, most = 4) {
  const digits = error > 0 ? Math.min(most, Math.max(0, 1 - Math.floor(Math.log10(error)))) : 3;
  return [fixed(value, digits), error > 0 ? fixed(error, digits) : "?"];
}

/** Bits, and what stands beside them: their Monte Carlo error, where they are drawn at all. */
export function bitsWithError(value, error) {
  const [bits, uncertain] = withError(value, error);
  return [bits, error === 0 ? "bits/dim, without Monte Carlo error" : `± ${uncertain} bits/dim`];
}

function ticks(low, high, count = 4) {
  const raw = (high - low) / count;
  const unit = 10 ** Math.floor(Math.log10(raw || 1));
  const step = [1, 2, 5, 10].map((k) => k * unit).find((each) => each >= raw);
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + 1e-9; at += step) found.push(Number(at.toPrecision(6)));
  return found;
}

function frame(label, low, high, format = String, wide = 560) {
  WIDTH = shown(wide);
  const y = (value) => TOP + (1 - (value - low) / (high - low || 1)) * (HEIGHT - TOP - BOTTOM);
  const root = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label, class: "chart" });
  for (const at of ticks(low, high)) {
    root.append(svg("line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(at), y2: y(at), class: "grid" }), text(LEFT - 7, y(at) + 4, format(at), "end"));
  }
  return [root, y];
}

function text(x, y, words, anchor = "middle", kind = "tick") {
  return svg("text", { x, y, "text-anchor": anchor, class: kind }, String(words));
}

/** A small number as people write it: 1.3×10⁻⁴. */
export function scientific(value) {
  const [digits, power] = value.toExponential(1).split("e");
  return `${digits.replace("-", "−")}×10${superscript(Number(power))}`;
}

/** Bars with error whiskers: what groups of levels cost. */
export function levelBars(groups) {
  const high = Math.max(...groups.map(({ bits, error }) => bits + error), 1e-9);
  const low = Math.min(0, ...groups.map(({ bits }) => bits));
  const most = groups.reduce((a, b) => (a.bits > b.bits ? a : b));
  const [root, y] = frame(`Bits per dimension by level; most, ${fixed(most.bits)}, at levels ${most.from} to ${most.to}`, low, high * 1.05, (v) => String(Number(v.toPrecision(2))));
  const step = (WIDTH - LEFT - RIGHT) / groups.length;
  groups.forEach(({ from, to, bits, error }, i) => {
    const x = LEFT + i * step;
    const bar = svg("rect", { x: x + 2, width: Math.max(1, step - 4), y: y(Math.max(bits, 0)), height: Math.abs(y(0) - y(bits)), rx: 1.5, class: "column" });
    bar.append(svg("title", {}, `levels ${from} to ${to}: ${fixed(bits, 4)} ± ${fixed(error, 4)} bits/dim`));
    const middle = x + step / 2;
    root.append(bar, svg("line", { x1: middle, x2: middle, y1: y(bits - error), y2: y(bits + error), class: "whisker" }));
    if (i % 3 === 0) root.append(text(middle, HEIGHT - 20, from));
  });
  root.append(text((LEFT + WIDTH) / 2, HEIGHT - 4, "level of the chain", "middle", "axis"));
  return root;
}

/** What each frame's level costs, with a mark that follows the slider. */
export class LevelCurve {
  constructor(frames, of) {
    const values = frames.map(({ bits }) => Math.max(bits, 1e-7));
    const [low, high] = [Math.floor(Math.log10(Math.min(...values))), Math.ceil(Math.log10(Math.max(...values)) + 1e-9)];
    const [root, y] = frame("Bits per dimension of each level, of one noise", low, Math.max(high, low + 1), (v) => (Number.isInteger(v) ? `10${superscript(v)}` : ""), 900);
    const width = WIDTH - LEFT - RIGHT;
    this.x = (i) => LEFT + (i / Math.max(1, frames.length - 1)) * width;
    this.y = (i) => y(Math.log10(values[i]));
    const points = values.map((_, i) => `${this.x(i)},${this.y(i)}`).join(" ");
    this.line = svg("line", { y1: TOP, y2: HEIGHT - BOTTOM, class: "cursor" });
    this.dot = svg("circle", { r: 4.5, class: "dot" });
    root.append(svg("polyline", { points, class: "curve" }), this.line, this.dot);
    const last = frames.length - 1;
    for (const k of [0, 1, 2, 3, 4]) {
      const i = Math.round((k * last) / 4);
      root.append(text(this.x(i), HEIGHT - 20, frames[i].t.toLocaleString("en"), i === 0 ? "start" : i === last ? "end" : "middle"));
    }
    root.append(text((LEFT + WIDTH) / 2, HEIGHT - 4, "level of the chain", "middle", "axis"));
    this.element = root;
  }

  mark(i) {
    for (const [name, value] of [["x1", this.x(i)], ["x2", this.x(i)]]) this.line.setAttribute(name, value);
    this.dot.setAttribute("cx", this.x(i));
    this.dot.setAttribute("cy", this.y(i));
  }
}

const superscript = (value) => String(value).replace("-", "⁻").replace(/\d/g, (digit) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[digit]);

/** Where the test images lie, and where this picture does. */
export function histogram(bits, own) {
  const [low, high] = [Math.min(...bits, own), Math.max(...bits, own)];
  const count = 30;
  const bins = new Array(count).fill(0);
  for (const value of bits) bins[Math.min(count - 1, Math.floor((count * (value - low)) / (high - low || 1)))]++;
  const [root, y] = frame(`${bits.length} test images from ${fixed(low, 2)} to ${fixed(high, 2)} bits per dimension; this picture has ${fixed(own, 2)}`, 0, Math.max(...bins) * 1.08);
  const step = (WIDTH - LEFT - RIGHT) / count;
  bins.forEach((value, i) => root.append(svg("rect", { x: LEFT + i * step + 1, width: step - 2, y: y(value), height: y(0) - y(value), class: "column faint" })));
  const at = LEFT + ((own - low) / (high - low || 1)) * (WIDTH - LEFT - RIGHT);
  root.append(svg("line", { x1: at, x2: at, y1: TOP, y2: HEIGHT - BOTTOM, class: "cursor" }));
  for (const value of ticks(low, high, 5)) root.append(text(LEFT + ((value - low) / (high - low || 1)) * (WIDTH - LEFT - RIGHT), HEIGHT - 20, Number(value.toPrecision(3))));
  root.append(text((LEFT + WIDTH) / 2, HEIGHT - 4, "bits/dim", "middle", "axis"));
  return root;
}

// From dark to bright with even steps of lightness.
const STOPS = [[16, 24, 48], [44, 62, 122], [118, 66, 138], [196, 76, 104], [240, 132, 62], [252, 226, 140]];
function shade(share) {
  const at = Math.min(Math.max(share, 0), 1) * (STOPS.length - 1);
  const k = Math.min(Math.floor(at), STOPS.length - 2);
  return STOPS[k].map((value, c) => value + (at - k) * (STOPS[k + 1][c] - value));
}

/** The bits of each pixel as colours, beside a scale. */
export function heatMap({ height, width, values }) {
  const bytes = Uint8Array.from(atob(values), (letter) => letter.charCodeAt(0));
  const bits = new Float32Array(bytes.buffer);
  const sorted = Float32Array.from(bits).sort();
  const [low, high] = [sorted[Math.floor(0.01 * (sorted.length - 1))], sorted[Math.floor(0.99 * (sorted.length - 1))]];
  const canvas = el("canvas", { width, height, role: "img", "aria-label": `Map of bits over the picture, from ${fixed(low, 1)} to ${fixed(high, 1)} bits a pixel` });
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  bits.forEach((value, i) => image.data.set([...shade((value - low) / (high - low || 1)), 255], 4 * i));
  context.putImageData(image, 0, 0);
  const readout = el("output", {}, " ");
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    const [x, y] = [event.offsetX / box.width, event.offsetY / box.height].map((share, k) => Math.min([width, height][k] - 1, Math.max(0, Math.floor(share * [width, height][k]))));
    readout.value = `${fixed(bits[y * width + x], 1)} bits at (${x}, ${y})`;
  });
  canvas.addEventListener("pointerleave", () => (readout.value = " "));
  const scale = el("div.scale", {}, el("span", {}, fixed(low, 1)), el("i"), el("span", {}, `${fixed(high, 1)} bits`));
  scale.children[1].style.background = `linear-gradient(to right, ${STOPS.map((stop) => `rgb(${stop.join(" ")})`).join(", ")})`;
  return el("figure.heat.small-pixels", {}, canvas, scale, readout);
}
