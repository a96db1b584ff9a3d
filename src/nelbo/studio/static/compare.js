// Compare: the families' table, and two models on one picture.

import { $, el, takesFiles, toast } from "./dom.js";
import { bitsWithError, fixed, heatMap, withError } from "./charts.js";
import { Chooser } from "./chooser.js";
import { Job } from "./job.js";
import { state } from "./models.js";
import { addUse } from "./pictures.js";

const panel = $("#compare");
const form = $("#compare-form");
const results = $("[data-results]", panel);
const job = new Job(panel);
const image = new Chooser($("[data-chooser=compare-image]"));

export function fill({ models, comparisons }) {
  $("#families").replaceChildren(...comparisons.map((name) => el("option", { value: name }, name)));
  $("#families-field").hidden = !comparisons.length;
  for (const [id, at] of [["first", 0], ["second", 1]]) {
    $(`#${id}`).replaceChildren(...models.map((name) => el("option", { value: name }, name)));
    if (models[at]) $(`#${id}`).value = models[at];
  }
  const two = models.length > 1;
  $("#two-models").hidden = !two;
  $(".actions", panel).hidden = !two;
}

$("#show-families").addEventListener("click", async () => {
  if (job.running) return;
  $("[data-empty]", panel).hidden = true;
  await job.run("families", { comparison: $("#families").value }, [], (event) => {
    if (event.type === "families") results.replaceChildren(table(event));
  });
});

const KINDS = { exact: "exact", bound: "bound", none: "none" };
function table({ rows, failed }) {
  const head = ["Family", "Bits/dim", "± images", "± seeds", "", "Fréchet", "Numbers", "Samples"];
  const body = rows.map((row) => {
    const [bits, error] = withError(row.bits ?? NaN, row.error ?? 0);
    const samples = el("img.small-pixels", { src: row.samples, alt: `${row.count} samples of ${row.title}` });
    return el("tr", {},
      el("th", { scope: "row" }, row.title, el("small", {}, row.group)),
      el("td", {}, row.bits === null ? "–" : bits), el("td", {}, row.bits === null ? "" : error),
      el("td", {}, row.over_seeds === null ? "" : fixed(row.over_seeds, 3)), el("td", {}, KINDS[row.kind] ?? ""),
      el("td", {}, fixed(row.distance, 2)), el("td", {}, Math.round(row.parameters).toLocaleString("en")), el("td", {}, samples));
  });
  return el("article.card", {},
    el("h2", {}, "Families on one scale"),
    el("div.scroll", { tabindex: 0, role: "region", "aria-label": "Table of families" }, el("table", {}, el("thead", {}, el("tr", {}, head.map((words) => el("th", { scope: "col" }, words)))), el("tbody", {}, body))),
    el("p.note", {}, "Bits/dim of the test images, lower is better: a bound is at least the truth. Fréchet distance of random convolutions, lower is better."),
    failed.length ? el("p.note", {}, `Failed: ${failed.join(", ")}.`) : null,
  );
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  if (job.running) return;
  if (!image.file) return job.fail("Choose a picture first.");
  const names = [$("#first").value, $("#second").value];
  if (names[0] === names[1]) return job.fail("Choose two different models.");
  $("[data-empty]", panel).hidden = true;
  const columns = names.map((name) => ({ name, number: el("b", {}, "…"), unit: el("span"), map: el("div"), shown: el("figure.frame") }));
  const verdict = el("p.verdict", { "aria-live": "polite" });
  const note = el("p.note");
  const card = el("article.card", {}, verdict, note, el("div.columns", {}, columns.map((each) => el("section", {}, el("h3", { title: each.name }, each.name), each.shown, el("p.number", {}, each.number, each.unit), each.map))));
  results.replaceChildren(card);
  const settings = { first: names[0], second: names[1], error: Number($("#compare-error").value), prompt: $("#compare-prompt").value.trim() || null };
  const done = await job.run("compare", settings, [["image", image.file]], (found) => {
    const column = columns[found.index];
    if (found.type === "image") column.shown.replaceChildren(el("img.small-pixels", { src: found.url, alt: `The picture as ${column.name} takes it` }));
    if (found.type === "map") column.map.replaceChildren(heatMap(found));
    if (found.type !== "pair") return;
    found.sides.forEach((side, i) => {
      [columns[i].number.textContent, columns[i].unit.textContent] = bitsWithError(side.bits, side.error);
    });
    card.classList.toggle("final", found.final);
    verdict.textContent = sentence(names, found);
    note.textContent = `${found.final ? "" : "Being refined. "}The ± of the difference is that of paired draws: both models meet the same noise, so that it may be far below that of either.`;
  });
  if (!done && !verdict.textContent) card.remove();
});

/** Which model needs fewer bits, or that it cannot be said. */
function sentence([first, second], { difference, error }) {
  if (difference === 0 && error === 0) return "Both need exactly the same bits for this picture. (A ControlNet without a sketch is its base.)";
  const [shown, uncertain] = withError(Math.abs(difference), error);
  if (Math.abs(difference) <= 2 * error) return `No difference stands out from its error: ${shown} ± ${uncertain} bits/dim.`;
  return `${difference < 0 ? first : second} needs ${shown} ± ${uncertain} bits/dim less for this picture.`;
}

takesFiles(panel, (files) => image.take(files));
addUse("Compare models", (file) => {
  if ($("#tab-compare").hidden) return toast("There is only one model to compare");
  image.take([file]);
  document.dispatchEvent(new CustomEvent("show-tab", { detail: "compare" }));
});
