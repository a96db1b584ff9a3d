// Evaluate: what pictures cost in bits, and why.

import { $, el, takesFiles, toast } from "./dom.js";
import { bitsWithError, fixed, heatMap, histogram, levelBars, withError } from "./charts.js";
import { Chooser } from "./chooser.js";
import { Job } from "./job.js";
import { fitControls, onModel, opened, state } from "./models.js";
import { addUse } from "./pictures.js";

const panel = $("#evaluate");
const form = $("#evaluate-form");
const results = $("[data-results]", panel);
const job = new Job(panel);
const images = new Chooser($("[data-chooser=evaluate-image]"));
const NAMES = {
  reconstruction: "reconstruction",
  entropy: "entropy of the encoder",
  latent_reconstruction: "reconstruction of latents",
  prior_matching: "prior matching",
  score_matching: "score matching",
};
const COLOURS = { reconstruction: "reconstruction", entropy: "entropy", latent_reconstruction: "latent-reconstruction", prior_matching: "prior-matching", score_matching: "score-matching" };

onModel((model) => {
  fitControls(form, model);
  $("#ranking").hidden = !model.text && !model.classes.length;
  if (model.text) $("#evaluate-prompts").placeholder = `Prompts to rank, one a line\n${model.examples.slice(0, 3).join("\n")}`;
});

const conditions = () => ({
  prompt: state.model.text ? $("#evaluate-prompt").value.trim() || null : null,
  label: state.model.classes.length ? $("#evaluate-label").value || null : null,
});

form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!ready()) return;
  const cards = [];
  results.replaceChildren();
  const settings = { model: state.model.name, error: Number($("#evaluate-error").value), ...conditions() };
  await job.run("evaluate", settings, images.files.map((file) => ["image", file]), (found) => {
    if (found.type === "image") {
      cards[found.index] = new Card(found, settings);
      results.append(cards[found.index].element);
    } else if (found.index !== undefined) cards[found.index].take(found);
  });
});

function ready() {
  if (!opened()) return false;
  if (job.running) return false;
  if (!images.files.length) {
    job.fail("Choose a picture first.");
    return false;
  }
  $("[data-empty]", panel).hidden = true;
  return true;
}

/** All that is known of one picture. */
class Card {
  constructor({ name, url }, settings) {
    this.settings = settings;
    this.figure = el("b", {}, "…");
    this.unit = el("span", {}, "bits/dim");
    const given = settings.prompt ?? (settings.label && `class ${settings.label}`);
    // The model may be another one by the time that this is read.
    const whose = el("p.note.whose", {}, `${settings.model}, ${given ? `given “${given}”` : "without a condition"}`);
    this.state = el("p.note", {}, "Drawing first levels");
    this.bar = el("div.costs");
    this.terms = el("dl.terms");
    this.levels = el("div");
    this.map = el("div");
    this.sizes = el("div");
    this.rank = el("div");
    const image = el("img.small-pixels", { src: url, alt: name });
    image.addEventListener("load", () => image.classList.toggle("small-pixels", image.naturalWidth <= 128));
    this.element = el("article.card", {},
      el("div.head", {}, el("figure.frame", {}, image, el("figcaption", {}, name)), el("div.headline", { "aria-live": "polite" }, whose, el("p.number", {}, this.figure, this.unit), this.state, this.bar, this.terms)),
      el("div.details", {}, this.map, this.levels, this.sizes, this.rank),
    );
  }

  take(event) {
    if (event.type === "estimate") this.#estimate(event);
    if (event.type === "map") this.map.replaceChildren(el("h3", {}, "Where in the picture"), heatMap(event));
    if (event.type === "sizes") this.#sizes((this.known = event));
    if (event.type === "archive") this.#sizes({ ...this.known, archive: event.bytes, reason: event.reason });
  }

  #estimate(event) {
    this.last = event;
    const [bits, beside] = bitsWithError(event.bits, event.error);
    this.figure.textContent = bits;
    this.unit.textContent = event.kind === "exact" ? "bits/dim, exact" : beside;
    const total = (event.bits * event.dims) / 8;
    const so = event.final ? "" : "Being refined: ";
    this.state.textContent = `${so}about ${Math.ceil(total).toLocaleString("en")} bytes for the picture, ${event.kind === "bound" ? "at most, by the bound" : "by its likelihood"}; ${event.calls.toLocaleString("en")} evaluation${event.calls === 1 ? "" : "s"} of the network`;
    this.element.classList.toggle("final", event.final);
    const positive = event.terms.filter(({ bits }) => bits > 0);
    const sum = positive.reduce((all, { bits }) => all + bits, 0) || 1;
    this.bar.replaceChildren(...positive.map(({ name, bits }) => {
      const part = el("i", { title: `${NAMES[name] ?? name}: ${fixed(bits)}` });
      part.style.width = `${(100 * bits) / sum}%`;
      part.style.background = `var(--${COLOURS[name] ?? "accent"})`;
      return part;
    }));
    this.terms.replaceChildren(...event.terms.flatMap(({ name, bits, error }) => {
      const [shown, uncertain] = withError(bits, error ?? 0);
      const mark = el("i");
      mark.style.background = `var(--${COLOURS[name] ?? "accent"})`;
      return [el("dt", {}, mark, NAMES[name] ?? name.replaceAll("_", " ")), el("dd", {}, error > 0 ? `${shown} ± ${uncertain}` : fixed(bits))];
    }));
    if (event.levels.length > 1) this.levels.replaceChildren(el("h3", {}, "Where in the chain, bits/dim"), levelBars(event.levels));
    if (event.final && !this.rank.firstChild && state.model.data) this.#offerRank();
  }

  #sizes({ raw, bound, files, archive, reason }) {
    const rows = [["as it is", raw], ...files.map(({ name, bytes }) => [name, bytes]), ["nelbo, by the bound", bound]];
    if (archive) rows.push(["nelbo archive", archive]);
    const bare = files.filter(({ bytes, pixels }) => pixels !== bytes).map(({ name, pixels }) => `${name} ${pixels.toLocaleString("en")}`);
    const most = Math.max(...rows.map(([, bytes]) => bytes));
    this.sizes.replaceChildren(el("h3", {}, "What it would take, bytes"), el("div.sizes", {}, rows.map(([name, bytes]) => {
      const bar = el("i");
      bar.style.setProperty("--share", bytes / most);
      if (name.startsWith("nelbo")) bar.className = "own";
      return [el("span", {}, name), el("div", {}, bar, el("em", {}, bytes.toLocaleString("en")))];
    })), el("p.note", {}, [bare.length ? `Without headers: ${bare.join(", ")}. ` : "", archive ? "The archive pays for the draws of its first picture, here the only one." : reason ? `No archive: ${reason}.` : ""]));
  }

  #offerRank() {
    const button = el("button.button.small", { type: "button", onclick: () => this.#ranked() }, `Rank it among the test images of ${state.model.data}`);
    this.rank.replaceChildren(el("h3", {}, "How rare it is"), button);
  }

  async #ranked() {
    if (job.running) return toast("Something else is being computed");
    const settings = { model: this.settings.model, bits: this.last.bits, conditioned: Boolean(this.settings.prompt || this.settings.label) };
    await job.run("rank", settings, [], (event) => {
      if (event.type !== "rank") return;
      const percent = Math.round(100 * event.share);
      const words = event.share >= 0.5 ? `rarer than ${percent}%` : `more usual than ${100 - percent}%`;
      this.rank.replaceChildren(
        el("h3", {}, "How rare it is"),
        el("p", {}, el("strong", {}, `${words} of the test images`), ` (± ${Math.max(1, Math.round(100 * event.error))}%, of ${event.images} images${settings.conditioned ? ", each given its own caption or class" : ""})`),
        histogram(event.bits, this.last.bits),
      );
    });
  }
}

$("#classify").addEventListener("click", async () => {
  if (!ready()) return;
  const prompts = $("#evaluate-prompts").value.split("\n").map((line) => line.trim()).filter(Boolean);
  const box = el("article.card", {}, el("h3", {}, `Which explains ${images.file.name} best`), el("p.note", {}, `By ${state.model.name}, with equal chances beforehand; by the bound, on shared noise.`));
  const list = el("div.ranking");
  box.append(list);
  results.prepend(box);
  const done = await job.run("classify", { model: state.model.name, prompts }, [["image", images.file]], (event) => {
    if (event.type !== "ranking") return;
    list.replaceChildren(...event.classes.slice(0, 12).flatMap(({ name, probability, behind, error }, i) => {
      const bar = el("i");
      bar.style.setProperty("--share", probability);
      const far = i ? `${fixed(behind / Math.LN2, 1)} ± ${fixed(error / Math.LN2, 1)} bits behind` : "the best";
      return [el("span", {}, name), el("div", {}, bar, el("em", {}, `${percent(probability)} · ${far}`))];
    }));
  });
  if (!done) box.remove();
});

const percent = (share) => (share > 0.9995 ? "> 99.9%" : share < 0.0005 ? "< 0.1%" : `${(100 * share).toFixed(share < 0.1 ? 1 : 0)}%`);

takesFiles(panel, (files) => images.take(files));
addUse("Evaluate", (file) => {
  images.files = [];
  images.take([file]);
  document.dispatchEvent(new CustomEvent("show-tab", { detail: "evaluate" }));
});
