// A place for a picture: choose, drop or paste one.

import { $, el, icon, takesFiles } from "./dom.js";

const TYPES = /^image\//;

export class Chooser {
  /** `root` holds a file input; `changed` is called with the pictures there are. */
  constructor(root, changed = () => {}) {
    this.root = root;
    this.input = $("input", root);
    this.many = this.input.multiple;
    this.files = [];
    this.changed = changed;
    this.shown = el("div.chosen");
    this.words = el("span", {}, this.many ? "Choose, drop or paste pictures" : "Choose, drop or paste a picture");
    root.append(el("label", { for: this.input.id }, this.words), this.shown);
    this.input.addEventListener("change", () => {
      this.take([...this.input.files]);
      this.input.value = "";
    });
    takesFiles(root, (files) => this.take(files));
  }

  get file() {
    return this.files[0] ?? null;
  }

  take(files) {
    if (!files.length) return;
    this.files = this.many ? [...this.files, ...files].slice(-16) : [files[0]];
    this.#show();
    this.changed(this.files);
  }

  remove(file) {
    this.files = this.files.filter((each) => each !== file);
    this.#show();
    this.changed(this.files);
  }

  #show() {
    for (const image of this.shown.querySelectorAll("img")) URL.revokeObjectURL(image.src);
    this.root.classList.toggle("full", this.files.length > 0);
    this.shown.replaceChildren(...this.files.map((file) => {
      const image = el("img", { src: URL.createObjectURL(file), alt: file.name });
      image.addEventListener("load", () => image.classList.toggle("small-pixels", image.naturalWidth <= 128));
      // A file that is no picture is refused by the server, with the reason.
      image.addEventListener("error", () => image.replaceWith(el("span.broken", {}, TYPES.test(file.type) ? "?" : "no picture")));
      return el("figure", {}, image, el("figcaption", {}, file.name), el("button.icon", { type: "button", "aria-label": `Remove ${file.name}`, onclick: () => this.remove(file) }, icon("close")));
    }));
  }
}
