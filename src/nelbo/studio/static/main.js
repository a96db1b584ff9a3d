// The page: tabs, theme, and the model that is open.

import "./fields.js";
import { $, $$, el, refreshRange, toast } from "./dom.js";
import { about, open, state } from "./models.js";
import { fill } from "./compare.js";
import "./generate.js";
import "./edit.js";
import "./evaluate.js";
import "./process.js";

const THEME = "nelbo-theme";

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  document.dispatchEvent(new Event("theme"));
}
const dark = matchMedia("(prefers-color-scheme: dark)");
setTheme(localStorage.getItem(THEME) ?? (dark.matches ? "dark" : "light"));
dark.addEventListener("change", () => !localStorage.getItem(THEME) && setTheme(dark.matches ? "dark" : "light"));
$("#theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  localStorage.setItem(THEME, theme);
  setTheme(theme);
});
$("#about").addEventListener("click", about);

const tabs = $$("[role=tab]");
export function select(name, focus = false) {
  for (const tab of tabs) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    $(`#${tab.getAttribute("aria-controls")}`).hidden = !chosen;
    if (chosen && focus) tab.focus();
    if (chosen) tab.scrollIntoView({ block: "nearest", inline: "nearest" });
  }
  history.replaceState(null, "", `#${name}`);
  document.dispatchEvent(new CustomEvent("tab", { detail: name }));
}
document.addEventListener("show-tab", ({ detail }) => select(detail));
for (const tab of tabs) {
  tab.addEventListener("click", () => select(tab.id.slice(4)));
  tab.addEventListener("keydown", ({ key }) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
    if (!step) return;
    const shown = tabs.filter((each) => !each.hidden);
    select(shown[(shown.indexOf(tab) + step + shown.length) % shown.length].id.slice(4), true);
  });
}

// A picture that is dropped beside a place for it must not replace the page.
for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());

/** Coarse noise that becomes a row of dots, the chain in small. */
function noise() {
  for (const canvas of $$("[data-noise]")) {
    const context = canvas.getContext("2d");
    const shades = getComputedStyle(document.documentElement);
    const [ink, paper] = ["--accent", "--track"].map((name) => shades.getPropertyValue(name));
    for (let x = 0; x < canvas.width; x++) for (let y = 0; y < canvas.height; y++) {
      const t = x / (canvas.width - 1);
      const clean = x % 3 === 1 && y === 1 ? 1 : 0;
      context.fillStyle = paper;
      context.globalAlpha = 1;
      context.fillRect(x, y, 1, 1);
      context.fillStyle = ink;
      context.globalAlpha = t * clean + (1 - t) * Math.random();
      context.fillRect(x, y, 1, 1);
    }
  }
}
document.addEventListener("theme", noise);
noise();

$$("input[type=range]").forEach(refreshRange);
$("#model").addEventListener("change", ({ target }) => open(target.value));

async function begin() {
  const response = await fetch("/api/studio");
  state.overview = await response.json();
  const { models, comparisons } = state.overview;
  $("#model").replaceChildren(...models.map((name) => el("option", { value: name }, name)));
  for (const part of [$(".model"), $("#about"), ...tabs]) part.hidden = !models.length;
  $("#tab-compare").hidden = !comparisons.length && models.length < 2;
  fill(state.overview);
  const asked = location.hash.slice(1);
  if (tabs.some((tab) => tab.id === `tab-${asked}` && !tab.hidden)) select(asked);
  else if (!models.length) select("compare");
  document.documentElement.dataset.ready = "true";
  if (models.length) await open(models[0]);
}
begin().catch((error) => toast(`The page cannot start: ${error.message}`));
