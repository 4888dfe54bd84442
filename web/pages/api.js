// Speaks the Connect protocol over fetch: calls, and streams of the server.
// https://connectrpc.com/docs/protocol

// Failure is what went wrong with a call. code is that of Connect, or
// "unreachable" when there was no answer of the API at all.
export class Failure extends Error {
  constructor(code, message) {
    super(message);
    this.code = code;
  }
}

const patience = 60_000; // ms for a call
const silence = 25_000; // ms without a sign of life until a stream is given up; the server gives one every 10 s

export class API {
  // skew is what to add to this machine's clock to get the server's, in ms.
  skew = 0;

  constructor(token) {
    this.token = token;
  }

  #request(method, kind, body, signal) {
    return fetch("/" + method, {
      method: "POST", body, signal, cache: "no-store", credentials: "omit", redirect: "error", referrerPolicy: "no-referrer",
      headers: { "Content-Type": kind, "Connect-Protocol-Version": "1", Authorization: "Bearer " + this.token },
    });
  }

  // call returns the answer of a method and the revision that it shows.
  async call(method, request, signal) {
    const wait = AbortSignal.timeout(patience);
    try {
      const res = await this.#request(method, "application/json", JSON.stringify(request), signal ? AbortSignal.any([signal, wait]) : wait);
      if (!res.ok) throw await refusal(res);
      const date = Date.parse(res.headers.get("Date"));
      // The header is cut to seconds: less than that is no difference.
      if (date) this.skew = Math.abs(date - Date.now()) < 2000 ? 0 : date - Date.now();
      return { message: await res.json(), revision: res.headers.get("Ingot-Revision") };
    } catch (e) {
      throw failure(e, signal);
    }
  }

  // stream yields the messages of a method until it ends, which always is an
  // error: what the page follows does not end by itself.
  async *stream(method, request, signal) {
    const quiet = new AbortController();
    let timer;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => quiet.abort(), silence);
    };
    try {
      heard();
      const res = await this.#request(method, "application/connect+json", envelope(JSON.stringify(request)), AbortSignal.any([signal, quiet.signal]));
      if (!res.ok) throw await refusal(res);
      for await (const { flags, text } of envelopes(res.body, heard)) {
        const message = JSON.parse(text);
        if (!(flags & 2)) {
          yield message;
        } else if (message.error) {
          throw new Failure(message.error.code, message.error.message);
        } else {
          break;
        }
      }
      throw new Failure("unavailable", "the stream ended");
    } catch (e) {
      throw failure(e, signal);
    } finally {
      clearTimeout(timer);
      quiet.abort(); // closes the connection if the reader left
    }
  }
}

// envelope frames one message: a byte of flags, four of length, the bytes.
function envelope(text) {
  const body = new TextEncoder().encode(text);
  const out = new Uint8Array(5 + body.length);
  new DataView(out.buffer).setUint32(1, body.length);
  out.set(body, 5);
  return out;
}

async function* envelopes(stream, heard) {
  const reader = stream.getReader();
  let rest = new Uint8Array(0);
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    heard();
    const bytes = new Uint8Array(rest.length + value.length);
    bytes.set(rest);
    bytes.set(value, rest.length);
    rest = bytes;
    while (rest.length >= 5) {
      const length = new DataView(rest.buffer, rest.byteOffset).getUint32(1);
      if (rest.length < 5 + length) break;
      yield { flags: rest[0], text: new TextDecoder().decode(rest.subarray(5, 5 + length)) };
      rest = rest.subarray(5 + length);
    }
  }
}

// refusal reads an error of Connect. What stands between may answer otherwise.
async function refusal(res) {
  try {
    const { code, message } = await res.json();
    if (code) return new Failure(code, message || code);
  } catch {} // not JSON
  return new Failure(res.status === 401 ? "unauthenticated" : "unreachable", "HTTP status " + res.status);
}

function failure(e, signal) {
  if (e instanceof Failure) return e;
  if (signal?.aborted) return new Failure("canceled", "not wanted any more");
  return new Failure("unreachable", e.name === "AbortError" || e.name === "TimeoutError" ? "no answer in time" : "no connection");
}
