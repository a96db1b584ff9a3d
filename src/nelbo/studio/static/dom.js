// Small things for building the page.

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

/** An element with attributes, properties (on...) and children; texts are never read as HTML. */
export function el(name, attributes = {}, ...children) {
  const [tag, ...classes] = name.split(".");
  const element = document.createElement(tag || "div");
  if (classes.length) element.className = classes.join(" ");
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

const ICONS = {
  save: ["M10 3v9.5M6 9l4 4 4-4M4 16.5h12"],
  close: ["M5 5l10 10M15 5L5 15"],
  edit: ["M4 16l.8-3.4L13 4.4a1.6 1.6 0 0 1 2.3 2.3L7.2 15z"],
  undo: ["M4 8h8a4 4 0 0 1 0 8H8M4 8l3.5-3.5M4 8l3.5 3.5"],
};
export function icon(name) {
  const drawn = svg("svg", { viewBox: "0 0 20 20", "aria-hidden": "true" });
  for (const d of ICONS[name]) drawn.append(svg("path", { d }));
  return drawn;
}

export function toast(text) {
  const shown = el("p", {}, text);
  $("#toasts").append(shown);
  setTimeout(() => shown.remove(), 3200);
}

export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea", { class: "unseen" }, text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast("Copied");
}

/** A slider shows its value beside it, and how far along it is. */
export function refreshRange(input) {
  const { min, max, value } = input;
  input.style.setProperty("--at", `${(100 * (value - min)) / (max - min || 1)}%`);
  const output = input.parentElement.querySelector("output");
  if (output) output.value = input.dataset.unit ? `${value}${input.dataset.unit}` : value;
}
export function setRange(input, value, max) {
  if (max !== undefined) input.max = max;
  if (value !== null && value !== undefined) input.value = value;
  refreshRange(input);
}
document.addEventListener("input", ({ target }) => {
  if (target.type === "range") refreshRange(target);
});

export const blobOf = async (url) => (await fetch(url)).blob();

/** Fetching a data: URL is an outside connection to the page's policy, so they are read here. */
export function blobOfData(url) {
  const [head, body] = url.split(",");
  const bytes = Uint8Array.from(atob(body), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type: head.slice(5).split(";")[0] });
}

export function seconds(value) {
  if (value < 10) return `${value.toFixed(1)} s`;
  const whole = Math.round(value);
  if (whole < 100) return `${whole} s`;
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** Files that are dropped on an element, or pasted while it is seen. */
export function takesFiles(element, take) {
  const files = (transfer) => [...(transfer?.files ?? [])];
  element.addEventListener("dragover", (event) => {
    event.preventDefault();
    element.classList.add("over");
  });
  element.addEventListener("dragleave", ({ relatedTarget }) => {
    if (!element.contains(relatedTarget)) element.classList.remove("over");
  });
  element.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    element.classList.remove("over");
    if (files(event.dataTransfer).length) take(files(event.dataTransfer));
  });
  const paste = (event) => {
    // Whoever takes it first prevents the default: what has the focus, else the first that is seen.
    if (event.defaultPrevented || element.offsetParent === null) return;
    const found = files(event.clipboardData);
    const isText = event.clipboardData?.types.includes("text/plain") && event.target.matches?.("input, textarea");
    if (!found.length || isText) return;
    event.preventDefault();
    take(found);
  };
  for (const target of [element, document]) target.addEventListener("paste", paste);
}
