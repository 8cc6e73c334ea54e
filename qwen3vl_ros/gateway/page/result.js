// What came of an answer, for people: its text, what was found, or the values of a task.

import { inWords, jsonIn } from "./json_view.js";
import { foundInWords } from "./places.js";

/**
 * {kind: "text" | "regions" | "values", json} of a turn (asking.js) that has ended. An answer of a free question that
 * is JSON through and through is one of regions or values, too; nothing is made of one that is incomplete.
 */
export function resultOf({ answer, parser, problem, stopped }) {
  if (problem || stopped) return { kind: "text" };
  if (parser === "json") return { kind: "values", json: answer.json };
  if (parser !== "text") return { kind: "regions", json: answer.regions };
  const json = jsonIn(answer.text);
  if (json === undefined) return { kind: "text" };
  return answer.regions.length ? { kind: "regions", json: answer.regions } : { kind: "values", json };
}

/** A result on one line. */
export function resultInWords(turn) {
  const { kind, json } = resultOf(turn);
  if (kind === "values") return inWords(json);
  return kind === "regions" ? foundInWords(turn.answer.regions) : turn.answer.text;
}

/** What is worth copying of it. */
export function copiedOf(turn) {
  const { kind, json } = resultOf(turn);
  return kind === "text" ? turn.answer.text : pretty(json);
}

export const pretty = (value) => JSON.stringify(value, null, 2);
