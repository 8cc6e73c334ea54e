// The question: a task, its slots, and the text that is asked.

import { byId, element } from "./elements.js";
import { examples, inGroups, knows, taskInWords } from "./tasks.js";

const SEPARATORS = /[,;\n，；、]/;

export class QuestionForm {
  #tasks = new Map();
  #card = null;
  #labels = [];
  #asked = []; // {task, text}, the newest last
  #back = 0; // how many questions ago the one that was recalled was asked
  #onAsk;

  /** `onAsk()` and `onStop()`: the user wants that. */
  constructor(onAsk, onStop) {
    this.#onAsk = onAsk;
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      onAsk();
    });
    byId("prompt").addEventListener("keydown", (event) => {
      if (event.key === "ArrowUp") this.#recall(event, 1);
      if (event.key === "ArrowDown") this.#recall(event, -1);
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      byId("composer").requestSubmit();
    });
    document.addEventListener("keydown", (event) => event.key === "Escape" && !byId("stop").hidden && onStop());
    byId("stop").addEventListener("click", onStop);
    byId("task").addEventListener("change", () => this.#showTask());
  }

  /** Offer these tasks of Server.tasks. */
  setTasks(tasks) {
    this.#tasks = new Map(tasks.map((task) => [task.name, task]));
    this.#offer();
  }

  /** Offer what a model with this card (of Server.status) can do. */
  setCard(card) {
    if (JSON.stringify(card) === JSON.stringify(this.#card)) return;
    this.#card = card;
    this.#offer();
  }

  /** Names of things that were found where the next question looks, for questions to begin with. */
  set labels(labels) {
    if (labels.join() === this.#labels.join()) return;
    this.#labels = labels;
    this.#showExamples();
  }

  #showExamples() {
    const offered = this.#card ? examples(this.#card, [...this.#tasks.values()], this.#labels) : [];
    const buttons = offered.map(({ task, text, words }) => {
      const button = element("button", { type: "button" }, words ?? text);
      button.addEventListener("click", () => {
        this.#fill(task, text);
        this.#onAsk();
      });
      return button;
    });
    byId("examples").replaceChildren(...buttons);
  }

  #offer() {
    const chosen = byId("task").value;
    const groups = inGroups([...this.#tasks.values()]).map(([label, tasks]) =>
      element("optgroup", { label }, ...tasks.map(({ name }) => this.#option(name))),
    );
    byId("task").replaceChildren(new Option("Any question", ""), ...groups);
    const option = [...byId("task").options].find(({ value }) => value === chosen);
    byId("task").value = option && !option.disabled ? chosen : "";
    this.#showTask();
    this.#showExamples();
  }

  #option(name) {
    const known = !this.#card || knows(this.#card, name);
    const option = new Option(taskInWords(name) + (known ? "" : " – not with this model"), name);
    option.disabled = !known;
    return option;
  }

  /** What is asked now: {text, title, task, parser, slots, images}; `images`: how many it needs. */
  question() {
    const text = byId("main-slot").hidden ? "" : byId("prompt").value.trim();
    const task = this.#tasks.get(byId("task").value);
    if (!task) return { text, title: text, task: "", parser: "text", slots: {}, images: 1 };
    const { name, parser, min_images: images } = task; // the gateway's name for their number
    return {
      text,
      title: [taskInWords(name), text].filter(Boolean).join(": "),
      task: name,
      parser,
      slots: this.#slots(task),
      images,
    };
  }

  /** Name of the task that is chosen; "" for any question. */
  get task() {
    return byId("task").value;
  }

  /** Make room for the next question, and remember this one. */
  clear() {
    const { task, text } = this.question();
    if (text) this.#asked.push({ task, text });
    this.#back = 0;
    byId("prompt").value = "";
  }

  /** Put a question that was not answered back, unless another one is being written. */
  restore({ task, text, slots }) {
    if (byId("prompt").value) return;
    this.#fill(task, text);
    for (const [name, value] of Object.entries(slots)) {
      const field = byId("slots").querySelector(`[name="${name}"]`);
      if (field) field.value = value;
    }
  }

  /** Make room where this very question stands. */
  clearIf({ task, text }) {
    if (this.task === task && byId("prompt").value.trim() === text) byId("prompt").value = "";
  }

  #fill(task, text) {
    if (this.task !== task) {
      byId("task").value = task;
      byId("task").dispatchEvent(new Event("change"));
    }
    byId("prompt").value = text;
  }

  /** Show the question asked `step` further back, as a shell does: -1 is the next one. */
  #recall(event, step) {
    const field = byId("prompt");
    const { value } = field;
    const shown = this.#asked.at(-this.#back)?.text ?? "";
    if (value !== (this.#back ? shown : "") || this.#back + step > this.#asked.length || this.#back + step < 0) return;
    event.preventDefault();
    this.#back += step;
    const { task, text } = this.#back ? this.#asked.at(-this.#back) : { task: this.task, text: "" };
    this.#fill(task, text);
    field.setSelectionRange(text.length, text.length);
  }

  /** Whether an answer is being written. */
  set busy(busy) {
    const focused = document.activeElement;
    byId("stop").hidden = !busy;
    byId("ask").hidden = busy;
    if (busy && focused === byId("ask")) byId("stop").focus(); // a hidden element would lose the focus to nothing
    if (!busy && focused === byId("stop")) byId("prompt").focus();
  }

  #showTask() {
    const task = this.#tasks.get(byId("task").value);
    const slots = task?.slots ?? [];
    const main = slots.find(({ name }) => name === task.main);
    byId("task-description").textContent = task?.description ?? "";
    byId("main-slot").hidden = Boolean(task) && !main;
    byId("main-slot").querySelector("label").textContent = main ? labelOf(main) : "Question";
    byId("prompt").placeholder = main ? labelOf(main) : "Question"; // where there is no room for the label
    byId("prompt").required = task ? Boolean(main?.required) : true;
    byId("slots").replaceChildren(...slots.filter((slot) => slot !== main).map(slotField));
  }

  /** The values of the fields that were filled in. */
  #slots(task) {
    const fields = [...byId("slots").querySelectorAll("[name]")].filter((field) => field.value !== "");
    const typed = (field) =>
      valueOf(
        task.slots.find(({ name }) => name === field.name),
        field.value,
      );
    return Object.fromEntries(fields.map((field) => [field.name, typed(field)]));
  }
}

function labelOf({ description, type, required }) {
  const list = type === "texts" ? ", separated by commas" : "";
  return `${description}${list}${required ? "" : " (optional)"}`;
}

function slotField(slot) {
  const id = `slot-${slot.name}`;
  const field = slotInput(slot);
  Object.assign(field, { id, name: slot.name, required: slot.required });
  return element("div", { className: "slot" }, element("label", { htmlFor: id }, labelOf(slot)), field);
}

function slotInput({ type, choices, default: usual }) {
  const options = type === "boolean" ? ["true", "false"] : (choices ?? []);
  if (options.length) {
    const words = { true: "yes", false: "no" };
    const unset = new Option(usual === null || usual === undefined ? "–" : `${words[usual] ?? usual} (as usual)`, "");
    return element("select", {}, unset, ...options.map((option) => new Option(words[option] ?? option, option)));
  }
  if (type === "number") return element("input", { type: "number", step: "any", placeholder: usual ?? "" });
  return element("input", { type: "text", placeholder: usual ?? "" });
}

function valueOf({ type }, text) {
  if (type === "number") return Number(text);
  if (type === "boolean") return text === "true";
  if (type === "texts")
    return text
      .split(SEPARATORS)
      .map((part) => part.trim())
      .filter(Boolean);
  return text;
}
