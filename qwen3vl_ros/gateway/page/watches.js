// The node's watches in a drawer: a list, a form for one more, and what they saw.

import { byId, element } from "./elements.js";
import { Problem } from "./server.js";

const PERIOD = 1000; // ms

export class Watches {
  #server;
  #timer = 0;
  #images = new Map(); // of events by their numbers: promises of addresses
  #shown = ""; // the report that is on the screen

  constructor(server) {
    this.#server = server;
    byId("watches-open").addEventListener("click", () => {
      byId("watches").showModal();
      this.#look();
    });
    byId("watches-close").addEventListener("click", () => byId("watches").close());
    byId("watches").addEventListener("close", () => clearTimeout(this.#timer));
    byId("watch-form").addEventListener("submit", (event) => {
      event.preventDefault();
      this.#add();
    });
  }

  /** The names of the cameras that a watch may look through. */
  setCameras(names) {
    const select = byId("watch-camera");
    if ([...select.options].map(({ value }) => value).join("\n") === names.join("\n")) return;
    select.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
  }

  async #add() {
    const camera = byId("watch-camera").value;
    const fields = { prompt: byId("watch-prompt").value, cameras: camera ? [camera] : [], evidence: true };
    if (await this.#saying(() => this.#server.addWatch(fields))) byId("watch-prompt").value = "";
  }

  /** Run `action` and look again; whether it was done. */
  async #saying(action) {
    try {
      await action();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      byId("watches-note").textContent = problem.message;
      return false;
    }
    await this.#look();
    return true;
  }

  async #look() {
    clearTimeout(this.#timer);
    if (!document.hidden) {
      try {
        this.#show(await this.#server.watches());
        byId("watches-note").textContent = "";
      } catch (problem) {
        if (!(problem instanceof Problem)) throw problem;
        byId("watches-note").textContent = problem.message;
      }
    }
    clearTimeout(this.#timer);
    if (byId("watches").open) this.#timer = setTimeout(() => this.#look(), PERIOD);
  }

  #show({ watches, events }) {
    const report = JSON.stringify([watches, events]);
    if (report === this.#shown) return; // what has the focus keeps it
    this.#shown = report;
    const focused = document.activeElement?.dataset?.key;
    byId("watch-list").replaceChildren(...watches.map((watch) => this.#watch(watch)));
    byId("watch-none").hidden = watches.length > 0;
    byId("watch-events").replaceChildren(...events.map((event) => this.#event(event)));
    byId("watch-events-title").hidden = !events.length;
    const numbers = new Set(events.map(({ number }) => number));
    for (const [number, image] of this.#images) {
      if (numbers.has(number)) continue;
      this.#images.delete(number);
      image.then((url) => URL.revokeObjectURL(url));
    }
    if (focused) byId("watches").querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
  }

  #watch({ watch_id: id, what, active, muted, asked, events, error, text }) {
    const mute = element("button", { type: "button" }, "Mute");
    mute.setAttribute("aria-pressed", muted);
    mute.setAttribute("aria-label", `Mute: ${what}`);
    mute.dataset.key = `mute ${id}`;
    mute.addEventListener("click", () => this.#saying(() => this.#server.muteWatch(id, !muted)));
    const remove = element("button", { type: "button", className: "remove", title: "End this watch" }, "×");
    remove.setAttribute("aria-label", `End: ${what}`);
    remove.dataset.key = `remove ${id}`;
    remove.addEventListener("click", () => this.#saying(() => this.#server.removeWatch(id)));
    const state = active ? "now" : asked ? "not now" : "not asked yet";
    const facts = error || `${state}${text && `: ${text}`} · ${asked} asked · ${events} events`;
    return element(
      "li",
      { className: active ? "active" : "" },
      element("span", { className: "question" }, what),
      element("span", { className: "answer" }, facts),
      mute,
      remove,
    );
  }

  #event({ number, kind, message, stamp, text, images }) {
    const name = images.includes("annotated") ? "annotated" : images[0];
    const image = element("img", { alt: "" });
    if (name) {
      if (!this.#images.has(number)) {
        const blob = this.#server.eventImage(number, name);
        this.#images.set(number, blob.then((jpeg) => URL.createObjectURL(jpeg), () => ""));
      }
      this.#images.get(number).then((url) => url && (image.src = url));
      image.alt = `What was seen: ${message}`;
    }
    const when = new Date(stamp * 1000).toLocaleTimeString();
    const words = { on: "it is so", off: "it is over", update: "it has changed" }[kind] ?? kind;
    return element(
      "li",
      {},
      image,
      element("span", { className: "question" }, message),
      element("span", { className: "answer" }, [when, words, text].filter(Boolean).join(" · ")),
    );
  }
}
