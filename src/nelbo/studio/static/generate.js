// Generate: pictures from a prompt, a class or a sketch.

import { $, blobOfData, setRange, takesFiles, toast } from "./dom.js";
import { Job } from "./job.js";
import { fitControls, newSeed, onModel, open, opened, state, steering } from "./models.js";
import { Batch, titleOf } from "./pictures.js";
import { readSettings } from "./png.js";
import { Sketch } from "./sketch.js";

const panel = $("#generate");
const form = $("#generate-form");
const gallery = $("[data-gallery]", panel);
const empty = $("[data-empty]", panel);
const job = new Job(panel);
const sketch = new Sketch($("#sketch"));
// Batches that are kept on the page.
const KEPT = 24;

onModel((model) => {
  fitControls(form, model);
  setRange($("#generate-n"), null, state.overview.limits.images);
  if (model.control) sketch.fit(model.control);
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
$("[data-shuffle]", form).addEventListener("click", () => ($("#generate-seed").value = newSeed()));

async function generate() {
  const model = opened();
  if (!model) return;
  if (job.running) return;
  let settings;
  const files = [];
  try {
    settings = { ...steering(form), n: Number($("#generate-n").value) };
    // Without a sketch the base alone draws.
    if (model.control && !sketch.isEmpty) {
      files.push(["control", await sketch.file()]);
      settings.control_scale = Number($("#generate-control").value);
    }
  } catch (error) {
    return job.fail(error.message);
  }
  const inTurn = model.classes.length > 0 && !settings.label;
  const title = inTurn ? "All classes in turn" : titleOf(settings);
  const batch = new Batch(gallery, settings, model.shape, title, settings.n === 1 ? ".one" : "");
  empty.hidden = true;
  if (matchMedia("(max-width: 800px)").matches) $("#generate-stage").scrollIntoView({ behavior: "smooth" });
  const done = await job.run("generate", settings, files, (event) => batch.hear(event));
  if (!done) {
    batch.clear();
    empty.hidden = gallery.children.length > 0;
    return;
  }
  while (gallery.children.length > KEPT) gallery.lastChild.remove();
  if ($("#generate-again").checked) $("#generate-seed").value = newSeed();
}

/** Set all controls as a picture was drawn. */
export async function restore(settings) {
  if (settings.model && settings.model !== state.model?.name) {
    if (!state.overview.models.includes(settings.model)) toast(`${settings.model} is not served here`);
    else await open(settings.model);
  }
  for (const name of ["prompt", "negative", "label", "sampler", "seed"]) {
    const field = $(`[name=${name}]`, form);
    if (field) field.value = settings[name] ?? (name === "seed" ? 0 : "");
  }
  for (const name of ["steps", "guidance", "n", "control_scale"]) setRange($(`[name=${name}]`, form), settings[name]);
  if (state.model?.control) await restoreSketch(settings);
  $("#generate-again").checked = false;
  if (settings.negative) $("details", form).open = true;
  toast(settings.task === "edit" ? "Settings restored, without the picture that was changed: edit it again" : "Settings restored");
}

async function restoreSketch({ control, control_scale: scale }) {
  if (control?.startsWith("data:image/png;base64,")) {
    await sketch.restore(new File([blobOfData(control)], "sketch.png", { type: "image/png" }));
  } else {
    sketch.clear();
    if (scale !== undefined) toast("Its sketch was too large to be kept in the picture: draw it again");
  }
}

takesFiles(panel, async ([file]) => {
  try {
    const settings = await readSettings(file);
    if (settings) await restore(settings);
    else if (state.model?.control) await sketch.load(file);
    else toast(`${file.name} holds no settings of nelbo`);
  } catch {
    toast(`${file.name} cannot be read, or its settings are damaged`);
  }
});
