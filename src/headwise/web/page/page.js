// What all panels share: the model, and its relevance.

import { $, options } from "./dom.js";
import { get } from "./api.js";

export const page = { state: {}, relevance: null, name: "" };

const listeners = [];

// Call `act` whenever another relevance is chosen, and at once if there is one.
export function onRelevance(act) {
  listeners.push(act);
  if (page.relevance) act(page.relevance);
}

export function setRelevance(relevance, name) {
  page.relevance = relevance;
  page.name = name;
  for (const act of listeners) act(relevance);
}

export const concepts = () => page.relevance?.concepts ?? [];

export const isByEffect = () => page.relevance?.kind === "effect";

// The model's own relevance, of each kind, and that of every run that has measured this model.
export async function offerRelevance() {
  const offered = (await get("/api/relevances")).map(({ name, title }) => [name, title]);
  if (!offered.some(([name]) => name === "")) offered.unshift(["", "none yet"]);
  options($("relevance"), offered, page.name);
}
