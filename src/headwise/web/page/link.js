// The state of a panel in the address, after "#", which the browser sends to nobody.

import { el } from "./dom.js";
import { announce } from "./jobs.js";

const TEXTS = ["prompt", "target", "negative_prompt", "scheduler", "relevance", "focus"]; // others are JSON

// The panel of the address, and its state if the address has one.
export function linked() {
  const [panel, query] = location.hash.slice(2).split("?");
  return { panel, state: query ? decoded(new URLSearchParams(query)) : null };
}

function decoded(query) {
  const state = {};
  for (const [name, text] of query) {
    try {
      state[name] = TEXTS.includes(name) ? text : JSON.parse(text);
    } catch {
      return null; // an address that was cut short
    }
  }
  return state;
}

function address(panel, state) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(state)) {
    const empty = value === null || value === undefined || (typeof value === "object" && !Object.keys(value).length);
    if (!empty) query.set(name, TEXTS.includes(name) ? value : JSON.stringify(value));
  }
  return `${location.href.split("#")[0]}#/${panel}?${query}`;
}

// A button that copies the address of what is shown; `stateOf` says what that is when it is pressed.
export function linkButton(panel, stateOf) {
  return el(
    "button",
    {
      type: "button",
      onclick: async ({ currentTarget }) => {
        const link = address(panel, stateOf());
        history.replaceState(null, "", link);
        try {
          await navigator.clipboard.writeText(link);
          currentTarget.textContent = "Link copied";
          announce("Link copied.");
        } catch {
          currentTarget.textContent = "Link in the address bar";
          announce("The link is in the address bar.");
        }
      },
    },
    "Copy link",
  );
}
