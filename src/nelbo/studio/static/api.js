// One request a task: settings and pictures go out, server-sent events come back.

/** Run a task; resolves when it has ended, rejects with its message. Abort `signal` to cancel. */
export async function run(task, settings, files, onEvent, signal) {
  const body = new FormData();
  body.append("settings", JSON.stringify(settings));
  for (const [field, file] of files) body.append(field, file, file.name || `${field}.png`);
  let response;
  try {
    response = await fetch(`/api/${task}`, { method: "POST", body, signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Error("The server does not answer. Is nelbo studio still running?");
  }
  if (!response.ok) throw new Error(await refusal(response));
  let ended = false;
  for await (const event of events(response.body)) {
    if (event.type === "error") throw new Error(sentence(event.message));
    if (event.type === "done" || event.type === "cancelled") ended = true;
    onEvent(event);
  }
  if (!ended) throw new Error("The server ended before the task did.");
}

async function refusal(response) {
  try {
    return sentence((await response.json()).error);
  } catch {
    return `The server answered ${response.status} ${response.statusText}.`;
  }
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) if (part.startsWith("data: ")) yield JSON.parse(part.slice(6));
  }
}

const sentence = (text) => {
  // The name of a file or of a setting stays as it is.
  const named = /^\S*[._'"`]/.test(text);
  const whole = named ? text : text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
};
