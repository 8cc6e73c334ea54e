// Server-sent events of a fetch: EventSource can neither POST nor send a token.

/** Yields the data of every event in a response body; comments are left out. Leaving the loop cancels the response. */
export async function* eventData(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let unfinished = "";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (unfinished + value).split("\n");
      unfinished = lines.pop();
      for (const line of lines.map((text) => text.replace(/\r$/, ""))) {
        if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
        else if (line === "" && data.length) {
          yield data.join("\n");
          data = [];
        }
      }
    }
  } finally {
    await reader.cancel().catch(() => {}); // an aborted response cannot be cancelled any more
  }
}
