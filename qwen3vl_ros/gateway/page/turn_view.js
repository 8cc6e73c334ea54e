// One question and its answer on the screen. asking.js says what a turn is.

import { copyButton } from "./copy.js";
import { CorrectionForm } from "./correction.js";
import { element, sentence } from "./elements.js";
import { jsonView } from "./json_view.js";
import { momentInWords } from "./moments.js";
import { foundInWords } from "./places.js";
import { RenderedText } from "./rendered_text.js";
import { copiedOf, pretty, resultInWords, resultOf } from "./result.js";
import { taskInWords } from "./tasks.js";
import { Waiting } from "./waiting.js";

export class TurnView {
  root = element("li", { className: "turn" });
  #turn;
  #answer = element("div", { className: "answer" });
  #reasoning = folded("Reasoning", "");
  #moments = element("ul", { className: "moments", ariaLabel: "Times in the answer" });
  #state = element("p", { className: "state" });
  #tools = element("div", { className: "tools" });
  #corrected = element("p", { className: "corrected" });
  #form;
  #text;
  #waiting;

  /**
   * `onShow(turn)`: the user wants to see this turn's image; `onRetry(turn)`: to have it asked again, in place of this
   * one; `onCorrect(turn, text)` is that of CorrectionForm, `usual` that of Waiting, `toHtml` that of RenderedText.
   */
  constructor(turn, { onShow, onRetry, onCorrect, usual, toHtml }) {
    this.#turn = turn;
    this.#text = new RenderedText(this.#answer, toHtml);
    this.#waiting = new Waiting(turn, usual);
    const question = element("p", { className: "question" });
    if (turn.task) question.append(element("span", { className: "tag" }, taskInWords(turn.task)), " ");
    question.append(turn.text);
    const copy = copyButton("Copy", () => copiedOf(this.#turn), this.#answer);
    const show = element("button", { type: "button", className: "show" }, "Show in image");
    show.addEventListener("click", () => onShow(turn));
    const retry = element("button", { type: "button", className: "retry" }, "Retry");
    retry.addEventListener("click", () => onRetry(turn));
    this.#form = new CorrectionForm(turn, async (...correction) => {
      await onCorrect(...correction);
      this.update();
    });
    const correct = element("button", { type: "button", className: "correct" }, "Correct");
    correct.title = "Say what the right answer would have been; the robot records it";
    correct.addEventListener("click", () => this.#form.open());
    this.#tools.append(copy, show, correct, retry);
    this.root.append(question, this.#reasoning, this.#answer, this.#moments, this.#waiting.root, this.#state);
    this.root.append(this.#corrected, this.#tools, this.#form.root);
    this.update();
  }

  /** The turn has changed. */
  update() {
    const { answer, image, parser, stage, problem, stopped } = this.#turn;
    const running = stage !== null;
    this.#reasoning.hidden = !answer.reasoning;
    this.#reasoning.lastChild.textContent = answer.reasoning;
    const result = running ? null : resultOf(this.#turn);
    if (running && (parser !== "text" || /^\s*(```json\s*)?[[{]/.test(answer.text))) this.#text.show("", false);
    else if (running || result.kind === "text") this.#text.show(answer.text, !running);
    else this.#answer.replaceChildren(...this.#parts(result));
    this.#moments.hidden = running || !answer.moments?.length; // an old turn of the history has none
    if (!running) this.#moments.replaceChildren(...(answer.moments ?? []).map(momentItem));
    this.root.classList.toggle("running", running);
    this.root.classList.toggle("failed", Boolean(problem));
    this.#waiting.update();
    this.#state.hidden = running;
    this.#state.replaceChildren(...sentence(stopped ? "Stopped." : problem || answer.facts));
    this.#corrected.hidden = !this.#turn.correction;
    this.#corrected.textContent = `Corrected: ${this.#turn.correction}`;
    this.#tools.hidden = running;
    this.#tools.querySelector(".correct").hidden = !this.#turn.goalId;
    this.#tools.querySelector(".copy").hidden = !answer.text;
    this.#tools.querySelector(".show").hidden = !answer.regions.length && !image;
    this.#tools.querySelector(".retry").hidden = !problem && !stopped;
  }

  /** The finished answer, or why there is none, to be read out; "" where it was read out while it came. */
  get inWords() {
    const { problem, stopped } = this.#turn;
    if (problem || stopped) return this.#state.textContent;
    return resultOf(this.#turn).kind === "text" ? "" : resultInWords(this.#turn);
  }

  /** The parts of an answer that is more than a text. */
  #parts({ kind, json }) {
    const { answer } = this.#turn;
    const shown = kind === "values" ? jsonView(json) : element("p", {}, foundInWords(answer.regions));
    const raw = folded("JSON", pretty(json));
    raw.append(copyButton("Copy JSON", () => pretty(json), raw.lastChild));
    return kind === "values" ? [shown, raw] : [shown, raw, folded("As the model wrote it", answer.text)];
  }
}

const momentItem = (moment) => element("li", {}, momentInWords(moment));
const folded = (title, text) => element("details", {}, element("summary", {}, title), element("pre", {}, text));
