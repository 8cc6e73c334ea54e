// Making and finding elements. Text goes in as text, except in setCleanHtml.

const cleaned = { createHTML: (html) => html };
// The gateway's Content-Security-Policy allows this policy and no other: browsers refuse HTML from anywhere else.
const answers = globalThis.trustedTypes?.createPolicy("answers", cleaned) ?? cleaned;

/** The element with this id; the page has all that are asked for. */
export const byId = (id) => document.getElementById(id);

/** A new element with these properties and children (elements or texts). */
export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

/** The children that show a sentence of the node or the gateway: what stands between backticks as code. */
export function sentence(text) {
  return text.split(/`([^`]+)`/).map((part, index) => (index % 2 ? element("code", {}, part) : part));
}

/** Put HTML into an element in place of what is there: only what the gateway's /api/render has cleaned. */
export function setCleanHtml(place, html) {
  place.innerHTML = answers.createHTML(html);
}

/** A new SVG element with these attributes. */
export function svg(name, attributes = {}) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
