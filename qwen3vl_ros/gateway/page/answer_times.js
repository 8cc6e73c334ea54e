// How long answers usually take, from the last ones of each model in this browser.

const KEY = "qwen3vl_ros.times";
const KEPT = 5; // answers of a model

export class AnswerTimes {
  #times = JSON.parse(localStorage.getItem(KEY) ?? "{}"); // model: [[seconds until the first word, until the end], ...]

  /** An answer has come: its first word and its end, in seconds after the question left the queue. */
  add(model, firstWord, end) {
    this.#times[model] = [[firstWord, end], ...(this.#times[model] ?? [])].slice(0, KEPT);
    localStorage.setItem(KEY, JSON.stringify(this.#times));
  }

  /** {firstWord, end}: the middle of the last answers' times; null where nothing is known. */
  usual(model) {
    const times = this.#times[model];
    if (!times) return null;
    const [firstWord, end] = [0, 1].map((which) => median(times.map((time) => time[which])));
    return { firstWord, end };
  }
}

function median(numbers) {
  const sorted = numbers.toSorted((one, other) => one - other);
  return sorted[Math.floor(sorted.length / 2)];
}
