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

// The model's own relevance, and that of every run that has one.
export async function offerRelevance() {
  const measured = (await get("/api/runs")).filter((run) => run.of_this_model).map((run) => [run.name, run.name]);
  options(
    $("relevance"),
    [["", page.state.measured ? `of ${page.state.model}` : "none yet"], ...measured],
    page.name,
  );
}
