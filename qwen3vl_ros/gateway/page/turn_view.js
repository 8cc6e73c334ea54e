// One question and its answer on the screen. asking.js says what a turn is.

import { copyButton } from "./copy.js";
import { element } from "./elements.js";
import { RenderedText } from "./rendered_text.js";
import { taskInWords } from "./tasks.js";

const STAGES = {
  queued: (position) => (position ? `In the queue, ${position} before this one…` : "In the queue…"),
  frame: () => "Waiting for a frame…",
  encode: () => "Looking at the image…",
  prefill: () => "Reading the question…",
  decode: () => "Answering…",
};

export class TurnView {
  root = element("li", { className: "turn" });
  #turn;
  #answer = element("div", { className: "answer" });
  #reasoning = folded("Reasoning", "");
  #state = element("p", { className: "state" });
  #tools = element("div", { className: "tools" });
  #text;

  /**
   * `onShow(turn)`: the user wants to see this turn's image; `onRetry(turn)`: to have it asked again, in place of this
   * one; `toHtml` and `change` are those of RenderedText.
   */
  constructor(turn, { onShow, onRetry, toHtml, change }) {
    this.#turn = turn;
    this.#text = new RenderedText(this.#answer, toHtml, change);
    const question = element("p", { className: "question" });
    if (turn.task) question.append(element("span", { className: "tag" }, taskInWords(turn.task)), " ");
    question.append(turn.text);
    const copy = copyButton("Copy", () => this.#copied(), this.#answer);
    const show = element("button", { type: "button", className: "show" }, "Show in image");
    show.addEventListener("click", () => onShow(turn));
    const retry = element("button", { type: "button", className: "retry" }, "Retry");
    retry.addEventListener("click", () => onRetry(turn));
    this.#tools.append(copy, show, retry);
    this.root.append(question, this.#reasoning, this.#answer, this.#state, this.#tools);
    this.update();
  }

  /** The turn has changed. */
  update() {
    const { answer, image, parser, stage, problem, stopped } = this.#turn;
    const running = stage !== null;
    this.#reasoning.hidden = !answer.reasoning;
    this.#reasoning.lastChild.textContent = answer.reasoning;
    if (parser === "text") this.#text.show(answer.text, !running);
    else this.#answer.replaceChildren(...(running || problem || stopped ? [answer.text] : this.#parts()));
    this.#answer.classList.toggle("raw", running && parser !== "text");
    this.root.classList.toggle("running", running);
    this.root.classList.toggle("failed", Boolean(problem));
    const words = running ? (STAGES[stage.stage]?.(stage.queue_position) ?? "Asking…") : problem || answer.facts;
    this.#state.textContent = stopped ? "Stopped." : words;
    this.#tools.hidden = running;
    this.#tools.querySelector(".copy").hidden = !answer.text;
    this.#tools.querySelector(".show").hidden = !answer.regions.length && !image;
    this.#tools.querySelector(".retry").hidden = !problem && !stopped;
  }

  /** The finished answer, or why there is none, to be read out; "" where it was read out while it came. */
  get inWords() {
    const { parser, problem, stopped } = this.#turn;
    if (problem || stopped) return this.#state.textContent;
    if (parser === "json") return this.#answer.textContent;
    return parser === "text" ? "" : foundInWords(this.#turn.answer.regions);
  }

  /** Whether there is the text and nothing more: nothing was made of an answer that is incomplete. */
  get #isPlain() {
    const { parser, problem, stopped } = this.#turn;
    return parser === "text" || Boolean(problem) || stopped;
  }

  #parts() {
    const { answer, parser } = this.#turn;
    if (parser === "json") return [element("pre", {}, pretty(answer.json))];
    return [foundInWords(answer.regions), folded("As the model wrote it", answer.text)];
  }

  /** What is worth copying: the text, or the values that a task's answer was turned into. */
  #copied() {
    const { answer, parser } = this.#turn;
    if (this.#isPlain) return answer.text;
    return pretty(parser === "json" ? answer.json : answer.regions);
  }
}

const folded = (title, text) => element("details", {}, element("summary", {}, title), element("pre", {}, text));

const pretty = (value) => JSON.stringify(value, null, 2);

function foundInWords(regions) {
  if (!regions.length) return "Nothing found.";
  const counts = new Map();
  for (const { label } of regions) counts.set(label || "unnamed", (counts.get(label || "unnamed") ?? 0) + 1);
  const parts = [...counts].map(([label, count]) => (count > 1 ? `${count} × ${label}` : label));
  return `Found: ${parts.join(", ")}.`;
}
