// Which model is open, and what can be asked of it.

import { $, $$, el, setRange, toast } from "./dom.js";
import { run } from "./api.js";

export const state = { overview: null, model: null };
const listeners = [];

/** Call with the facts of each model that is opened. */
export function onModel(listener) {
  listeners.push(listener);
  if (state.model) listener(state.model);
}

let opening = null;

/** Open a model; resolves with its facts, or null where it cannot be opened. */
export async function open(name) {
  opening?.abort();
  const controller = (opening = new AbortController());
  const note = $("#opening");
  note.classList.remove("failed");
  note.textContent = `Opening ${name}…`;
  const soon = setTimeout(() => (note.hidden = false), 250);
  $("#model").value = name;
  try {
    await run("open", { model: name }, [], (event) => {
      if (event.type === "place" && event.place) note.textContent = `Opening ${name}: ${event.place} task${event.place > 1 ? "s" : ""} before it`;
      if (event.type === "model") state.model = event.model;
    }, controller.signal);
    note.hidden = true;
    for (const listener of listeners) listener(state.model);
    return state.model;
  } catch (error) {
    if (controller.signal.aborted) return null;
    note.hidden = false;
    note.classList.add("failed");
    note.textContent = `${name} cannot be opened: ${error.message}`;
    // The one before is still there, and what is asked for goes to it.
    if (state.model) $("#model").value = state.model.name;
    return null;
  } finally {
    clearTimeout(soon);
    if (opening === controller) opening = null;
  }
}

/** The model that is open; where there is none, null, and a word to the user. */
export function opened() {
  if (!state.model) toast(opening ? "The model is still being opened" : "No model is open: choose another");
  return state.model;
}

/** Fill the controls that steer a walk with what the model takes; hide the others. */
export function fitControls(root, model) {
  const has = {
    text: model.text,
    classes: model.classes.length > 0,
    control: model.control !== null,
    chain: model.chain !== null,
    guided: model.guided,
  };
  for (const part of $$("[data-for]", root)) part.hidden = !has[part.dataset.for];
  const steps = $("[name=steps]", root);
  if (steps && model.chain) setRange(steps, model.steps, Math.min(model.chain, Math.max(100, model.steps)));
  const guidance = $("[name=guidance]", root);
  if (guidance) setRange(guidance, model.text ? model.guidance : 1);
  const sampler = $("[name=sampler]", root);
  if (sampler) {
    sampler.replaceChildren(el("option", { value: "" }, "usual"), ...model.samplers.map((name) => el("option", { value: name }, name)));
  }
  const label = $("[name=label]", root);
  if (label) label.replaceChildren(el("option", { value: "" }, root.id === "generate-form" ? "all in turn" : "none"), ...model.classes.map((name) => el("option", { value: name }, name)));
  const examples = $("[data-examples]", root);
  if (examples) {
    const prompt = $("[name=prompt]", root);
    examples.replaceChildren(...model.examples.map((text) => el("button", { type: "button", onclick: () => { prompt.value = text; prompt.focus(); } }, text)));
  }
}

/** The settings of those controls, as a task takes them. */
export function steering(root) {
  const model = state.model;
  const settings = { model: model.name };
  const text = (name) => $(`[name=${name}]`, root)?.value.trim() || null;
  if (model.text) Object.assign(settings, { prompt: text("prompt"), negative: text("negative") });
  if (model.classes.length) settings.label = text("label");
  if (model.chain) Object.assign(settings, { steps: Number(text("steps")), sampler: text("sampler") });
  if (model.guided) settings.guidance = Number(text("guidance"));
  const seed = Number(text("seed") ?? 0);
  if (!Number.isSafeInteger(seed) || seed < 0) throw new Error("The seed must be a whole number of at least 0.");
  return { ...settings, seed };
}

// Of nine digits, which its field shows whole.
export const newSeed = () => Math.floor(Math.random() * 1e9);

export function about() {
  const model = opened();
  if (!model) return;
  const dialog = $("#viewer");
  const facts = Object.entries(model.facts).flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)]);
  if (model.data) facts.push(el("dt", {}, "trained on"), el("dd", {}, model.data));
  dialog.replaceChildren(
    el("button.icon.close", { "aria-label": "Close", onclick: () => dialog.close() }, "✕"),
    el("div.sheet", {}, el("h2", {}, model.name), el("p", {}, `${model.description}.`), el("dl.facts", {}, facts)),
  );
  dialog.showModal();
}
