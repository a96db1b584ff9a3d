// Edit: redraw a picture, paint a part of it, go over into another one.

import { $, $$, el, setRange, takesFiles } from "./dom.js";
import { Chooser } from "./chooser.js";
import { Job } from "./job.js";
import { fitControls, newSeed, onModel, opened, state, steering } from "./models.js";
import { Batch, addUse, titleOf } from "./pictures.js";
import { Drawing, drawMiddle } from "./sketch.js";

const panel = $("#edit");
const form = $("#edit-form");
const gallery = $("[data-gallery]", panel);
const job = new Job(panel);
const ABOUT = {
  redraw: "Noise hides the details of the picture, and the decoder fills them in anew. More strength keeps less of it.",
  paint: "Paint over what is to be drawn anew; the rest is kept exactly.",
  between: "Both pictures are taken up the chain, and points between them down again.",
};
const mode = () => form.elements.mode.value;

/** Strokes over a picture that mark what to draw anew. */
class Mask extends Drawing {
  constructor(root) {
    super(root, { label: "What to draw anew", width: 44 });
    this.cuts = true;
    this.picture = null;
    this.under = el("canvas", { "aria-hidden": "true" });
    this.canvas.before(this.under);
  }

  async show(file, shape) {
    this.picture = file ? await createImageBitmap(file).catch(() => null) : null;
    this.strokes = [];
    this.fit(shape);
    const { under, canvas, picture } = this;
    Object.assign(under, { width: canvas.width, height: canvas.height });
    if (!picture) return;
    const context = under.getContext("2d");
    context.imageSmoothingEnabled = picture.width > 128;
    drawMiddle(context, picture);
  }

  ink() {
    return "#2e6aa8";
  }

  /** White where strokes are, on black, in the size of the picture that it belongs to. */
  async file() {
    if (this.isBlank) throw new Error("Nothing is marked: paint over what is to be drawn anew.");
    this.canvas.blur();
    this.paint();
    const drawn = this.context.getImageData(0, 0, this.canvas.width, this.canvas.height);
    for (let i = 0; i < drawn.data.length; i += 4) {
      const marked = drawn.data[i + 3] > 127 ? 255 : 0;
      drawn.data.set([marked, marked, marked, 255], i);
    }
    const out = new OffscreenCanvas(drawn.width, drawn.height);
    out.getContext("2d").putImageData(drawn, 0, 0);
    return new File([await out.convertToBlob({ type: "image/png" })], "mask.png", { type: "image/png" });
  }
}

$("#edit-steps").min = 2;
const mask = new Mask($("#mask"));
const image = new Chooser($("[data-chooser=edit-image]"), ([file]) => state.model && mask.show(file, state.model.shape));
const other = new Chooser($("[data-chooser=edit-other]"));

function show() {
  for (const part of $$("[data-mode]", form)) part.hidden = part.dataset.mode !== mode();
  $("[data-about]", form).textContent = ABOUT[mode()];
  $("label[for=edit-n]").textContent = mode() === "between" ? "Frames" : "Pictures";
  $("#edit-n").min = mode() === "between" ? 2 : 1;
  setRange($("#edit-n"), mode() === "between" ? 8 : 4);
  setRange($("#edit-steps"), mode() === "paint" ? 50 : (state.model?.steps ?? 25));
}
for (const radio of form.elements.mode) radio.addEventListener("change", show);

onModel((model) => {
  fitControls(form, model);
  job.refuse(model.chain ? "" : "This model has no chain of levels to edit pictures with.");
  mask.show(image.file, model.shape);
  show();
});
$("[data-shuffle]", form).addEventListener("click", () => ($("#edit-seed").value = newSeed()));
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const model = opened();
  if (!model) return;
  if (job.running) return;
  const files = [];
  let settings;
  try {
    settings = { ...steering(form), mode: mode(), n: Number($("#edit-n").value) };
    if (mode() === "redraw") settings.strength = Number($("#edit-strength").value);
    if (mode() === "paint") Object.assign(settings, { jump_length: 5, jump_n_sample: Number($("#edit-rounds").value) });
    if (!image.file) throw new Error("Choose a picture to edit first.");
    files.push(["image", image.file]);
    if (mode() === "paint") files.push(["mask", await mask.file()]);
    if (mode() === "between") {
      if (!other.file) throw new Error("Choose the picture to go over into.");
      files.push(["other", other.file]);
    }
  } catch (error) {
    return job.fail(error.message);
  }
  const title = settings.prompt || settings.label ? titleOf(settings) : image.file.name;
  const batch = new Batch(gallery, settings, model.shape, title, mode() === "between" ? ".film" : "");
  $("[data-empty]", panel).hidden = true;
  const done = await job.run("edit", settings, files, (event) => batch.hear(event));
  if (!done) {
    batch.element.remove();
    $("[data-empty]", panel).hidden = gallery.children.length > 0;
  }
});

takesFiles(panel, (files) => image.take(files));
addUse("Edit", (file) => {
  image.take([file]);
  document.dispatchEvent(new CustomEvent("show-tab", { detail: "edit" }));
});
show();
