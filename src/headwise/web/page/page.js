// What all panels know: the model, and what was measured of it.

import { $, options } from "./dom.js";
import { get } from "./api.js";

export const page = { state: {}, relevance: null, name: "" };

const waiting = [];

// Be told whenever another relevance is chosen, and at once if there is one.
export function onRelevance(act) {
  waiting.push(act);
  if (page.relevance) act(page.relevance);
}

export function setRelevance(found, name) {
  page.relevance = found;
  page.name = name;
  for (const act of waiting) act(found);
}

export const concepts = () => page.relevance?.concepts ?? [];

// The model's own relevance, and every run's that has one.
export async function offerRelevance() {
  const measured = (await get("/api/runs")).filter((run) => run.measured).map((run) => [run.name, run.name]);
  options($("relevance"), [["", page.state.measured ? `of ${page.state.model}` : "none yet"], ...measured], page.name);
}
