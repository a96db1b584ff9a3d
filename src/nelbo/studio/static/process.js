// Process: a slider over the levels of the chain; all frames are here before it is moved.

import { $, el, setRange, takesFiles, toast } from "./dom.js";
import { LevelCurve, fixed, scientific } from "./charts.js";
import { Chooser } from "./chooser.js";
import { Job } from "./job.js";
import { fitControls, newSeed, onModel, opened, state } from "./models.js";
import { addUse, viewPicture } from "./pictures.js";

const panel = $("#process");
const form = $("#process-form");
const stage = $("[data-chain]", panel);
const job = new Job(panel);
const image = new Chooser($("[data-chooser=process-image]"));
const SHOWN = [["x_t", "x", "t", "The state: the picture with the noise of level t"], ["x_0", "x̂", "0", "What the model predicts from it"], ["mean", "E[x", "t−1", "The posterior mean, where the next step leads"]];

onModel((model) => {
  fitControls(form, model);
  job.refuse(model.chain ? "" : "This model has no chain of levels to watch.");
});
$("[data-shuffle]", form).addEventListener("click", () => ($("#process-seed").value = newSeed()));
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});

/** The frames of a chain, and the slider that moves along them. */
class Film {
  constructor({ levels, of, latent }, shape) {
    this.frames = [];
    this.of = of;
    this.total = levels.length;
    this.slider = el("input", { type: "range", min: 0, max: levels.length - 1, value: 0, id: "level", "aria-label": "Level of the chain" });
    this.slider.addEventListener("input", () => this.show());
    this.views = SHOWN.map(([key, symbol, index, words]) => {
      const canvas = el("canvas", { role: "img", "aria-label": words });
      return { key, canvas, element: el("figure.view", {}, el("div.frame", {}, canvas), el("figcaption", {}, el("b", {}, symbol, el("sub", {}, index), symbol.includes("[") ? "]" : null), el("span", {}, words))) };
    });
    const small = Math.max(shape[1], shape[2]) <= 128;
    this.level = el("output.level", { for: "level" });
    this.cost = el("output.cost", { for: "level" });
    this.chart = el("div.curve-box");
    this.down = el("button.button", { type: "button", onclick: () => this.walk() }, "Walk down from here");
    this.element = el("div", {},
      el("div.views" + (small ? ".small-pixels" : ""), {}, this.views.map(({ element }) => element)),
      el("div.slide", {}, el("span", {}, "data"), this.slider, el("span", {}, "noise")),
      el("div.reading", {}, this.level, this.cost, this.down),
      this.chart,
      latent ? el("p.note", {}, "The chain is one of latents: states are shown as the decoder draws them, and costs are those of the latents, without the autoencoder's.") : null,
    );
  }

  async add(start, frames) {
    const made = await Promise.all(frames.map(async (frame) => ({ ...frame, bitmaps: Object.fromEntries(await Promise.all(SHOWN.map(async ([key]) => [key, await bitmap(frame[key])]))) })));
    made.forEach((frame, i) => (this.frames[start + i] = frame));
    const known = this.frames.filter(Boolean).length;
    if (known === this.total) {
      this.curve = new LevelCurve(this.frames, this.of);
      this.chart.replaceChildren(el("h3", {}, "What each level costs, bits/dim"), this.curve.element);
    }
    this.show();
  }

  get frame() {
    return this.frames[Number(this.slider.value)];
  }

  show() {
    const frame = this.frame;
    const at = Number(this.slider.value);
    this.slider.style.setProperty("--at", `${(100 * at) / Math.max(1, this.total - 1)}%`);
    if (!frame) return;
    for (const { key, canvas } of this.views) {
      const drawn = frame.bitmaps[key];
      if (canvas.width !== drawn.width || canvas.height !== drawn.height) Object.assign(canvas, { width: drawn.width, height: drawn.height });
      canvas.getContext("2d").drawImage(drawn, 0, 0);
    }
    this.level.value = `t = ${frame.t.toLocaleString("en")} of ${this.of.toLocaleString("en")}, ${Math.round(100 * frame.signal)}% signal`;
    this.slider.setAttribute("aria-valuetext", this.level.value);
    this.cost.value = `${frame.t === 1 ? "reconstruction" : "score matching"} of this level: ${frame.bits < 0.001 ? scientific(frame.bits) : fixed(frame.bits, 4)} bits/dim`;
    this.curve?.mark(at);
  }

  /** The rest of the way by the decoder, from the noise of this level. */
  async walk() {
    if (job.running) return toast("Something else is being computed");
    const strength = Math.max(0.05, Math.min(1, this.frame.t / this.of));
    const settings = { model: state.model.name, mode: "redraw", strength, n: 1, steps: state.model.steps, seed: Number($("#process-seed").value), prompt: this.prompt, label: this.label };
    await job.run("edit", settings, [["image", this.file]], (event) => {
      if (event.type === "picture") viewPicture(event.url, event.settings, "Where the decoder leads from this level");
    });
  }
}

async function bitmap(url) {
  const made = new Image();
  made.src = url;
  await made.decode();
  return createImageBitmap(made);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!opened()) return;
  if (job.running) return;
  if (!image.file) return job.fail("Choose a picture first.");
  $("[data-empty]", panel).hidden = true;
  let film = null;
  const waiting = [];
  const settings = {
    model: state.model.name,
    seed: Number($("#process-seed").value),
    prompt: state.model.text ? $("#process-prompt").value.trim() || null : null,
    label: state.model.classes.length ? $("#process-label").value || null : null,
  };
  await job.run("process", settings, [["image", image.file]], (found) => {
    if (found.type === "chain") {
      film = new Film(found, state.model.shape);
      Object.assign(film, { file: image.file, prompt: settings.prompt, label: settings.label });
      stage.replaceChildren(film.element);
      stage.hidden = false;
    }
    if (found.type === "frames") waiting.push(film.add(found.start, found.frames));
  });
  await Promise.all(waiting);
  $("[data-empty]", panel).hidden = !stage.hidden;
});

takesFiles(panel, (files) => image.take(files));
addUse("Watch its chain", (file) => {
  image.take([file]);
  document.dispatchEvent(new CustomEvent("show-tab", { detail: "process" }));
});
