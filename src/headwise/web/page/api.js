// Requests to the server of this page, and to no other.

export class Refusal extends Error {}

async function ask(method, path, body, type = "application/json") {
  let answer;
  try {
    answer = await fetch(path, {
      method,
      body,
      headers: body === undefined ? {} : { "content-type": type },
      credentials: "same-origin",
    });
  } catch {
    throw new Error("The server does not answer. Is it still running?");
  }
  const reply = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refusal(reply.detail ?? `The server refused (${answer.status}).`);
  return reply;
}

export const get = (path) => ask("GET", path);
export const post = (path, body) => ask("POST", path, body === undefined ? undefined : JSON.stringify(body));
export const remove = (path) => ask("DELETE", path);
export const send = (path, file) => ask("POST", path, file, file.type || "application/octet-stream");

export const over = (job) => ["done", "failed", "cancelled"].includes(job.state);

export const pictureOf = (job, item) => `/api/jobs/${job.id}/pictures/${item.picture}`;

// Report a job until it is over; a server that does not answer for a moment is asked again.
export async function follow(job, onNews, onSilence = () => {}) {
  let lost = 0;
  onNews(job);
  while (!over(job)) {
    try {
      job = await get(`/api/jobs/${job.id}?since=${job.version}`);
      lost = 0;
    } catch (error) {
      if (error instanceof Refusal || ++lost > 30) throw error;
      onSilence(job, error);
      await new Promise((wake) => setTimeout(wake, 1000));
      continue;
    }
    onNews(job);
  }
  return job;
}
