// JSON as people read it: names and values, lists and tables in place of braces.

import { element } from "./elements.js";

/** The JSON that a text is, a code fence around it or not; undefined for any other text, a plain number or word too. */
export function jsonIn(text) {
  const inner = text.trim().replace(/^```(?:json)?\s*\n([\s\S]*?)\n?```$/, "$1");
  if (!/^[[{]/.test(inner)) return undefined;
  try {
    return JSON.parse(inner);
  } catch {
    return undefined;
  }
}

/** An element that shows a value. */
export function jsonView(value) {
  if (Array.isArray(value)) return listView(value);
  if (value !== null && typeof value === "object") return objectView(value);
  return element("p", {}, inWords(value));
}

/** A value on one line. */
export function inWords(value) {
  if (value === null || value === "") return "–";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.length ? value.map(inWords).join(", ") : "none";
  if (typeof value === "object") {
    const parts = Object.entries(value).map(([name, part]) => `${nameInWords(name)}: ${inWords(part)}`);
    return parts.join(" · ") || "–";
  }
  return String(value);
}

const nameInWords = (name) => name.replaceAll("_", " ");
const isObject = (value) => value !== null && typeof value === "object" && !Array.isArray(value);

function objectView(value) {
  const entries = Object.entries(value);
  if (!entries.length) return element("p", {}, "–");
  const rows = entries.flatMap(([name, part]) => [
    element("dt", {}, nameInWords(name)),
    element("dd", {}, part !== null && typeof part === "object" ? jsonView(part) : inWords(part)),
  ]);
  return element("dl", { className: "values" }, ...rows);
}

function listView(values) {
  if (!values.length) return element("p", {}, "none");
  if (!values.every(isObject)) return element("ul", {}, ...values.map((value) => element("li", {}, inWords(value))));
  const names = [...new Set(values.flatMap(Object.keys))];
  const head = element("tr", {}, ...names.map((name) => element("th", { scope: "col" }, nameInWords(name))));
  const rows = values.map((value) =>
    element("tr", {}, ...names.map((name) => element("td", {}, name in value ? inWords(value[name]) : ""))),
  );
  return element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
}
