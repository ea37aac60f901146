// One kind of asking in one panel: the newest answer is shown, what goes wrong is said, progress is announced.

import { $ } from "./dom.js";
import { follow, over, post } from "./api.js";

const NAMES = { explore: "Drawing", generate: "Drawing", strip: "Drawing the strip", suggest: "Asking the heads", edit: "Editing", compose: "Composing", weaken: "Weakening", measure: "Measuring" };
const active = new Map();

export const problem = (panel, text) => { $(panel).querySelector(".problem").textContent = text; };

export const announce = (text) => { $("announce").textContent = text; };

export function lane(panel, kind, show, quiet = false) {
  let newest = "";

  async function adopt(job, restored = false) {
    newest = job.id;
    try {
      if (!restored && !quiet) announce(`${NAMES[kind]} …`);
      return await follow(job, (news) => {
        watch(news);
        if (news.id !== newest) return;
        show(news);
        if (news.state === "failed") problem(panel, news.error);
        if (over(news) && !restored && !quiet) announce(`${NAMES[kind]}: ${news.state}.`);
      });
    } catch (error) {
      active.delete(job.id);
      status();
      if (job.id === newest && !restored) problem(panel, error.message);
      return job;
    }
  }

  return {
    adopt,
    async ask(body, path = `/api/${kind}`) {
      problem(panel, "");
      try {
        return await adopt(await post(path, body));
      } catch (error) {
        problem(panel, error.message);
        return null;
      }
    },
  };
}

// The bar at the foot: what is under way, and the way out of it.
export function watch(job) {
  if (over(job)) active.delete(job.id);
  else active.set(job.id, job);
  status();
}

function status() {
  const jobs = [...active.values()];
  const shown = jobs.find((job) => job.state === "running") ?? jobs[0];
  $("status").hidden = !shown;
  if (!shown) return;
  const name = NAMES[shown.kind] ?? shown.kind;
  const what = shown.run ? `${name} “${shown.run}”` : name;
  const waits = shown.before ? `, behind ${shown.before} other${shown.before > 1 ? "s" : ""}` : ", waiting";
  $("status-said").textContent = shown.state === "running" ? (shown.total ? `${what}, ${shown.done} of ${shown.total}` : what) : what + waits;
  $("status-bar").value = shown.total ? shown.done / shown.total : 0;
  $("status-cancel").dataset.job = shown.id;
  $("status-cancel").setAttribute("aria-label", `Cancel: ${what}`);
}

$("status-cancel").addEventListener("click", async (event) => {
  try {
    await post(`/api/jobs/${event.currentTarget.dataset.job}/cancel`);
    announce("Cancelled.");
  } catch (error) {
    announce(error.message);
  }
});
