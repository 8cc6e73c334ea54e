// How questions are answered, as the user sets it in a drawer; kept by this browser.

import { byId } from "./elements.js";

const KEY = "qwen3vl_ros.settings";
const DETAIL = { high: 1024, auto: "auto", medium: 128, low: 64 }; // tokens that an image may take at most

export class Settings {
  #form = byId("settings-form");

  constructor() {
    for (const [name, value] of Object.entries(JSON.parse(localStorage.getItem(KEY) ?? "{}"))) {
      if (this.#form.elements[name]) this.#form.elements[name].value = value;
    }
    this.#form.addEventListener("input", () => this.#keep());
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault(); // Enter in a field
      byId("settings").close();
    });
    this.#form.addEventListener("reset", () => setTimeout(() => this.#keep(), 0)); // once the fields are empty
    byId("settings-open").addEventListener("click", () => byId("settings").showModal());
    this.#mark();
  }

  /** The fields of a request (docs/gateway.md) that are set. */
  get fields() {
    const { temperature, detail, thinking } = this.#values;
    return {
      ...(temperature && { temperature: Number(temperature) }),
      ...(detail && { max_image_tokens: DETAIL[detail] }),
      ...(thinking && { thinking: thinking === "on" }),
    };
  }

  /** The instruction that precedes every question; "" for the node's own. */
  get systemPrompt() {
    return this.#values.system;
  }

  /** What a model with this card needs to know about. */
  setCard({ grounding_image_tokens: tokens }) {
    byId("detail-note").textContent = tokens ? `This model needs ${tokens} tokens to place boxes well.` : "";
  }

  /** What the fields have; a number that is none, or out of its range, counts as not set. */
  get #values() {
    const values = Object.fromEntries(new FormData(this.#form));
    if (!this.#form.elements.temperature.checkValidity()) values.temperature = "";
    return { ...values, system: values.system.trim() };
  }

  #keep() {
    localStorage.setItem(KEY, JSON.stringify(this.#values));
    this.#mark();
  }

  /** Show on the button whether anything is set. */
  #mark() {
    const set = Object.values(this.#values).filter(Boolean).length;
    byId("settings-open").textContent = set ? `Settings (${set})` : "Settings";
  }
}
