// Job slots: one kind of request in one panel. The newest answer, its errors and its progress are shown.

import { $ } from "./dom.js";
import { follow, over, post } from "./api.js";

const NAMES = {
  explore: "Generating",
  explain: "Finding the heads",
  mute: "Muting a head",
  generate: "Generating",
  strip: "Generating the strip",
  suggest: "Finding concepts",
  edit: "Editing",
  compose: "Composing",
  weaken: "Weakening",
  measure: "Measuring",
};
const active = new Map();

export const problem = (panel, text) => {
  $(panel).querySelector(".problem").textContent = text;
};

export const announce = (text) => {
  $("announce").textContent = text;
};

export function jobSlot(panel, kind, show, quiet = false) {
  let newest = "";

  async function adopt(job, restored = false) {
    newest = job.id;
    try {
      if (!restored && !quiet) announce(`${NAMES[kind]} …`);
      const said = (update) => {
        watch(update);
        if (update.id !== newest) return;
        show(update);
        if (update.state === "failed") problem(panel, update.error);
        if (over(update) && !restored && !quiet) announce(`${NAMES[kind]}: ${update.state}.`);
      };
      return await follow(job, said, (silent, error) => {
        watch(silent);
        $("status-said").textContent = error.message;
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

// The bar at the foot: the progress of a job, and a button that cancels it.
export function watch(job) {
  if (over(job)) active.delete(job.id);
  else active.set(job.id, job);
  status();
}

function status() {
  const jobs = [...active.values()];
  const job = jobs.find((other) => other.state === "running") ?? jobs[0];
  $("status").hidden = !job;
  if (!job) return;
  const name = NAMES[job.kind] ?? job.kind;
  const what = job.run ? `${name} “${job.run}”` : name;
  const waits = job.before ? `, behind ${job.before} other job${job.before > 1 ? "s" : ""}` : ", waiting";
  $("status-said").textContent =
    job.state === "running" ? (job.total ? `${what}, ${job.done} of ${job.total}` : what) : what + waits;
  $("status-bar").value = job.total ? job.done / job.total : 0;
  $("status-cancel").dataset.job = job.id;
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
