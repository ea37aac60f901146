// Tabs, the model's state, and the choice of relevance.

import { $ } from "./dom.js";
import { get, over } from "./api.js";
import { offerRelevance, page, setRelevance } from "./page.js";
import { announce, watch } from "./jobs.js";
import * as explore from "./explore.js";
import * as generate from "./generate.js";
import * as edit from "./edit.js";
import * as compose from "./compose.js";
import * as weaken from "./weaken.js";
import * as runs from "./runs.js";
import * as setup from "./setup.js";
import { linked } from "./link.js";
import "./theme.js";
import "./viewer.js";

const panels = { explore, generate, edit, compose, weaken, runs };
const SET_UP = ["explore", "generate", "edit", "compose"]; // whose images follow the image settings
const tabs = Object.keys(panels).map((name) => $(`tab-${name}`));

const requestedTab = () => (panels[linked().panel] ? linked().panel : "explore");

function open(name, focus = false) {
  for (const tab of tabs) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !chosen;
    if (chosen && focus) tab.focus();
    if (chosen) tab.parentElement.scrollLeft = tab.offsetLeft - tab.parentElement.clientWidth / 3;
  }
  $("setup").hidden = !SET_UP.includes(name);
  // Not the panel's own id, to which a browser would scroll.
  if (linked().panel !== name) history.replaceState(null, "", `#/${name}`);
  panels[name].opened?.();
}

tabs.forEach((tab, place) => {
  tab.addEventListener("click", () => open(tab.getAttribute("aria-controls")));
  tab.addEventListener("keydown", (event) => {
    const to = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: tabs.length - 1 }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    open(tabs[(to + tabs.length) % tabs.length].getAttribute("aria-controls"), true);
  });
});
addEventListener("hashchange", () => (linked().state ? location.reload() : open(requestedTab())));

async function choose(name) {
  try {
    setRelevance(await get(`/api/relevance?name=${encodeURIComponent(name)}`), name);
  } catch (error) {
    explore.nothing(error.message);
  }
}

function say(state) {
  page.state = state;
  const described = { loading: "is loading …", ready: "is ready", failed: "could not be loaded" }[
    state.state
  ];
  $("model").textContent = `${state.model} ${described}`;
  setup.offer(state.takes);
  if (state.state === "failed") explore.nothing(state.error);
}

async function awaitModel(linkedPanel) {
  while (page.state.state === "loading") {
    await new Promise((wake) => setTimeout(wake, 400));
    const state = await get("/api/state").catch(() => null);
    if (state) say(state);
  }
  if (page.state.state === "ready") {
    announce("The model is ready.");
    offerRelevance().catch(() => {});
    for (const [name, panel] of Object.entries(panels)) if (name !== linkedPanel) panel.ready?.();
  }
}

$("relevance").addEventListener("change", (event) => choose(event.target.value));

async function start() {
  open(requestedTab());
  const { panel, state: link } = linked();
  const [state] = await Promise.all([get("/api/state"), choose(link?.relevance ?? "")]);
  // What this browser requested before, perhaps in a tab that was closed, is shown again.
  const last = {};
  for (const job of state.jobs) last[job.kind] = job;
  if (link) delete last[panel];
  const setUp = state.jobs.filter(({ kind, asked }) => SET_UP.includes(kind) && !asked.picture);
  setup.restore(link ?? setUp.at(-1)?.asked);
  say(state);
  for (const job of state.jobs) if (!over(job)) watch(job);
  for (const panel of Object.values(panels)) panel.restore?.(last, state);
  offerRelevance().catch(() => {});
  await awaitModel(link ? panel : "");
  if (link && page.state.state === "ready") await panels[requestedTab()].follow?.(link);
}

start().catch((error) => explore.nothing(error.message));
