// A task on the page: its button, its progress, its cancellation and its errors.

import { $, el, seconds, toast } from "./dom.js";
import { run } from "./api.js";

export class Job {
  /** `root` holds elements marked data-start, data-stop, data-progress and data-message. */
  constructor(root) {
    this.start = $("[data-start]", root);
    this.stop = $("[data-stop]", root);
    this.progress = $("[data-progress]", root);
    this.message = $("[data-message]", root);
    this.controller = null;
    this.stop?.addEventListener("click", () => this.cancel());
    root.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.running && !$("dialog[open]")) this.cancel();
    });
  }

  get running() {
    return this.controller !== null;
  }

  cancel() {
    this.controller?.abort();
  }

  /** Run a task; true if it came to its end. */
  async run(task, settings, files, onEvent) {
    this.cancel();
    const controller = (this.controller = new AbortController());
    const mine = () => this.controller === controller;
    const began = performance.now();
    this.#busy(true);
    this.#show("Sending", null);
    this.message.hidden = true;
    try {
      await run(task, settings, files, (event) => {
        if (!mine()) return;
        if (event.type === "place") {
          const ahead = event.place;
          this.#show(ahead ? `Waiting: ${ahead} task${ahead > 1 ? "s" : ""} before this one` : "Starting", null);
        } else if (event.type === "started") this.#show("Starting", null);
        else if (event.type === "progress") {
          const spent = (performance.now() - began) / 1000;
          this.#show(event.text ?? `Step ${event.step} of ${event.of}`, event.step / event.of, seconds(spent));
        }
        onEvent(event);
      }, controller.signal);
      return true;
    } catch (error) {
      if (controller.signal.aborted) {
        if (mine()) toast("Cancelled");
      } else if (mine()) this.fail(error.message);
      return false;
    } finally {
      if (mine()) {
        this.controller = null;
        this.#busy(false);
        this.progress.hidden = true;
      }
    }
  }

  /** Refuse the task for a reason that holds as long as the model does; "" for none. */
  refuse(reason) {
    this.start.disabled = Boolean(reason);
    this.message.textContent = reason;
    this.message.hidden = !reason;
  }

  fail(text) {
    this.message.textContent = text;
    this.message.hidden = false;
    this.message.scrollIntoView({ block: "nearest" });
  }

  #busy(busy) {
    const focused = document.activeElement;
    if (this.start) this.start.hidden = busy;
    if (this.stop) this.stop.hidden = !busy;
    // What has the focus should not vanish from under it.
    if (busy && focused === this.start) this.stop?.focus();
    if (!busy && (focused === this.stop || focused === document.body)) this.start?.focus({ preventScroll: true });
  }

  #show(text, share, aside = "") {
    this.progress.hidden = false;
    this.progress.classList.toggle("waiting", share === null);
    if (!this.progress.firstChild) {
      this.progress.append(
        el("div.line", {}, el("span"), el("span")),
        el("div.track", { role: "progressbar", "aria-valuemin": 0, "aria-valuemax": 100, "aria-label": "Progress" }, el("i")),
      );
    }
    const [left, right] = this.progress.querySelectorAll(".line span");
    left.textContent = text;
    right.textContent = aside;
    const track = $(".track", this.progress);
    if (share === null) track.removeAttribute("aria-valuenow");
    else track.setAttribute("aria-valuenow", Math.round(100 * share));
    track.firstChild.style.width = share === null ? "" : `${100 * share}%`;
  }
}
