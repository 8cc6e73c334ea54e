// What somebody who waits for an answer sees: what is done now, for how long, and how long it usually takes.

import { element } from "./elements.js";

const PERIOD = 200; // ms
const STAGES = {
  queued: (position) => (position ? `In the queue, ${position} before this one` : "In the queue"),
  frame: () => "Waiting for a frame",
  encode: () => "Looking at the image",
  prefill: () => "Reading the question",
  decode: () => "Answering",
};

export class Waiting {
  root = element("div", { className: "waiting" });
  #words = element("p");
  #bar = element("progress", { max: 1 });
  #turn;
  #usual;
  #timer = 0;

  /** `usual`: AnswerTimes.usual of the model that is asked. */
  constructor(turn, usual) {
    this.#turn = turn;
    this.#usual = usual;
    this.#bar.setAttribute("aria-label", "Progress of the answer");
    this.root.append(this.#words, this.#bar);
    this.#timer = setInterval(() => this.update(), PERIOD);
    this.update();
  }

  /** The turn has changed, or time has passed. */
  update() {
    const { stage, begun, started, answer, parser } = this.#turn;
    if (stage === null) {
      clearInterval(this.#timer);
      this.root.hidden = true;
      return;
    }
    const now = performance.now();
    const words = [`${STAGES[stage.stage]?.(stage.queue_position) ?? "Asking"}…`, `${seconds(now - begun)} s`];
    if (this.#usual && !answer.text) words.push(`the first words usually come after ${this.#inWords("firstWord")}`);
    else if (this.#usual) words.push(`usually ${this.#inWords("end")}`);
    const found = parser === "text" ? 0 : answer.text.split('"label"').length - 1;
    if (found) words.push(`${found} found so far`);
    this.#words.textContent = words.join(" · ");
    // Without a start or an experience the bar moves without saying how far: it has no value then.
    if (this.#usual && started) this.#bar.value = Math.min(0.95, (now - started) / 1000 / this.#usual.end);
    else this.#bar.removeAttribute("value");
  }

  #inWords(which) {
    const time = this.#usual[which];
    return time < 1 ? "less than 1 s" : `${Math.round(time)} s`;
  }
}

const seconds = (milliseconds) => Math.floor(milliseconds / 1000);
