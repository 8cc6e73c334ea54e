// The form in which the user says what would have been the right answer, where the node records its answers.

import { element } from "./elements.js";
import { Problem } from "./server.js";

export class CorrectionForm {
  root = element("form", { className: "correction", hidden: true });
  #text = element("textarea", { rows: 3 });
  #save = element("button", { type: "submit" }, "Save");
  #note = element("p", { className: "refusal", hidden: true });
  #turn;
  #onCorrect;

  /** `onCorrect(turn, text)` resolves once the node has written it; throws Problem. */
  constructor(turn, onCorrect) {
    this.#turn = turn;
    this.#onCorrect = onCorrect;
    const cancel = element("button", { type: "button" }, "Cancel");
    cancel.addEventListener("click", () => this.close());
    this.root.append(
      element("label", {}, "The right answer", this.#text),
      element("div", { className: "tools" }, this.#save, cancel),
      this.#note,
    );
    this.root.addEventListener("submit", (event) => this.#submit(event));
    this.root.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
  }

  /** Show what the model said, to be edited; what was corrected before stays. */
  open() {
    this.#text.value = this.#turn.correction ?? this.#turn.answer.text;
    this.#say("");
    this.root.hidden = false;
    this.#text.focus();
  }

  close() {
    this.root.hidden = true;
  }

  async #submit(event) {
    event.preventDefault();
    const text = this.#text.value.trim();
    if (!text) {
      this.#say("Write what the model should have answered.");
      return;
    }
    this.#save.disabled = true;
    try {
      await this.#onCorrect(this.#turn, text);
      this.close();
    } catch (problem) {
      if (!(problem instanceof Problem)) throw problem;
      this.#say(problem.message);
    } finally {
      this.#save.disabled = false;
    }
  }

  #say(words) {
    this.#note.textContent = words;
    this.#note.hidden = !words;
  }
}
