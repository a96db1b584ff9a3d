// Pictures in galleries, and one of them seen large, with what can be done with it.

import { $, blobOfData, copy, el, icon, seconds, toast } from "./dom.js";

// What other tabs do with a picture, by the words of the button.
const uses = [];
export const addUse = (words, use) => uses.push([words, use]);

const NAMES = { prompt: "prompt", negative: "negative prompt", label: "class", class: "class", guidance: "guidance", sampler: "sampler", steps: "steps", seed: "seed", picture: "picture", control_scale: "strength of the sketch", strength: "strength", jump_n_sample: "rounds", model: "model" };

/** What a picture was drawn of; `class` is that of one of a batch of all classes in turn. */
export function titleOf(settings) {
  const label = settings?.label ?? settings?.class;
  return settings?.prompt ?? (label ? `Class ${label}` : "Without a condition");
}

export function fileName(settings) {
  const words = titleOf(settings).toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 40);
  return `${words || "picture"}-${settings?.seed ?? 0}-${settings?.picture ?? 0}.png`;
}

/** A frame for a picture that is being drawn; `show` fills it. */
export class Picture {
  constructor(shape, label) {
    this.image = el("img", { alt: label });
    this.button = el("button", { type: "button", "aria-label": `${label}: look at it`, disabled: true, onclick: () => this.view() }, this.image);
    this.element = el("div.picture.pending", {}, this.button);
    this.element.style.setProperty("--ratio", `${shape[2]} / ${shape[1]}`);
    if (Math.max(shape[1], shape[2]) <= 128) this.element.classList.add("small-pixels");
    this.image.hidden = true;
  }

  preview(url) {
    this.image.src = url;
    this.image.hidden = false;
  }

  show(url, settings) {
    this.preview(url);
    this.url = url;
    this.settings = settings;
    this.element.classList.remove("pending");
    this.button.disabled = false;
    const name = fileName(settings);
    this.element.append(el("div.row", {}, el("a", { href: url, download: name, "aria-label": "Save", title: "Save" }, icon("save"))));
  }

  view() {
    if (this.url) viewPicture(this.url, this.settings, this.image.alt);
  }
}

/** The pictures of a task that is under way, at the top of a gallery; `hear` takes its events. */
export class Batch {
  constructor(gallery, settings, shape, title, classes) {
    this.settings = settings;
    this.pictures = Array.from({ length: settings.n }, (_, i) => new Picture(shape, `${title}, ${i + 1} of ${settings.n}`));
    this.aside = el("span");
    const grid = el(`div.pictures${settings.n <= 4 ? ".few" : ""}${classes}`, {}, this.pictures.map((each) => each.element));
    this.element = el("article.batch", {}, el("header", {}, el("h3", {}, title), this.aside), grid);
    gallery.prepend(this.element);
  }

  hear(event) {
    if (event.type === "progress") event.previews?.forEach((url, i) => this.pictures[event.first + i].preview(url));
    if (event.type === "picture") this.pictures[event.index].show(event.url, event.settings);
    if (event.type === "result") {
      this.aside.textContent = `${seconds(event.seconds)} · seed ${this.settings.seed}`;
      this.element.append(commandLine(event.command));
    }
  }

  /** Leave the pictures that are there, and nothing where none is. */
  clear() {
    for (const picture of this.pictures) if (!picture.url) picture.element.remove();
    if (!this.element.querySelector(".picture")) this.element.remove();
  }
}

export function viewPicture(url, settings, alt = "") {
  const dialog = $("#viewer");
  const facts = Object.entries(settings ?? {}).filter(([name]) => NAMES[name]).flatMap(([name, value]) => [el("dt", {}, NAMES[name]), el("dd", {}, String(value))]);
  const image = el("img", { src: url, alt });
  image.addEventListener("load", () => image.classList.toggle("small-pixels", Math.max(image.naturalWidth, image.naturalHeight) <= 128));
  const name = fileName(settings);
  const go = (use) => () => {
    dialog.close();
    use(new File([blobOfData(url)], name, { type: "image/png" }), url, settings);
  };
  dialog.replaceChildren(
    el("button.icon.close", { type: "button", "aria-label": "Close", onclick: () => dialog.close() }, icon("close")),
    el("div.viewer", {},
      el("figure", {}, image),
      el("div.side", {},
        el("h2", {}, titleOf(settings)),
        el("dl.facts", {}, facts),
        el("div.ways", {},
          el("a.button.small", { href: url, download: name }, "Save"),
          ...uses.map(([words, use]) => el("button.button.small", { type: "button", onclick: go(use) }, words)),
        ),
      ),
    ),
  );
  dialog.showModal();
}

$("#viewer").addEventListener("click", ({ target }) => {
  if (target === $("#viewer")) target.close();
});

export function commandLine(text) {
  return el("div.command", {}, el("code", { tabindex: 0, "aria-label": "Command line" }, text), el("button", { type: "button", onclick: () => copy(text) }, "Copy"));
}

export { toast };
