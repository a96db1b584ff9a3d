// What several panels have is written once, as templates of the page.

import { $, $$ } from "./dom.js";

const NAMED = ["id", "for", "aria-labelledby", "data-chooser"];

for (const place of $$("[data-use]")) {
  const panel = place.closest("section").id;
  const { use, placeholder, ...texts } = place.dataset;
  const made = $(`#${use}`).content.cloneNode(true);
  for (const part of $$("*", made)) {
    for (const name of NAMED) if (part.getAttribute(name)?.startsWith("-")) part.setAttribute(name, panel + part.getAttribute(name));
    if (texts[part.dataset.text]) part.textContent = texts[part.dataset.text];
  }
  const area = $("textarea", made);
  if (area && placeholder) area.placeholder = placeholder;
  if (!("examples" in place.dataset)) $("[data-examples]", made)?.remove();
  if ("many" in place.dataset) $("input", made).multiple = true;
  place.replaceWith(made);
}
