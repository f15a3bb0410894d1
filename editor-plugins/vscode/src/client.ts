/** The one place that talks to the server. */

import { type CompletionAnswer, type CompletionRequest, parseAnswer } from "./protocol";

/** Nobody listens at the server's address. */
export class OfflineError extends Error {}

/** The server is there and did not do what was asked. `status` is the HTTP status, or 0 for an answer of a wrong form. */
export class ServerError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
  }
}

/** A newer request of the same window for the same document took this one's place. */
export class SupersededError extends Error {}

/** An answer that takes longer than this is no help to anyone who types. */
const COMPLETION_TIMEOUT_MS = 60_000;
const HEALTH_TIMEOUT_MS = 5_000;

export class Client {
  /** `url`: where `codelm serve` listens, such as `http://127.0.0.1:8417`. */
  constructor(readonly url: string) {}

  /** Throws OfflineError, ServerError, SupersededError or the signal's reason. Aborting closes the connection: that is how the server cancels. */
  async complete(request: CompletionRequest, signal: AbortSignal): Promise<CompletionAnswer> {
    const body = await this.post("/v1/textDocument/inlineCompletion", request, COMPLETION_TIMEOUT_MS, signal);
    try {
      return parseAnswer(body);
    } catch (error) {
      throw new ServerError(0, messageOf(error));
    }
  }

  /** Tells that a suggestion was taken, so that the server can write ahead. Throws as `complete` does. */
  async accepted(id: string): Promise<void> {
    await this.post("/v1/accepted", { id }, HEALTH_TIMEOUT_MS);
  }

  /** Has the server read ahead what the request would have to read first. Throws as `complete` does. */
  async warm(request: CompletionRequest): Promise<void> {
    await this.post("/v1/warm", request, HEALTH_TIMEOUT_MS);
  }

  /** The name of the model that the server has loaded. Throws as `complete` does. */
  async model(signal?: AbortSignal): Promise<string> {
    const body = await this.fetchJson("/v1/health", HEALTH_TIMEOUT_MS, signal);
    const model = typeof body === "object" && body !== null && "model" in body ? body.model : undefined;
    if (typeof model !== "string") throw new ServerError(0, "this is no codelm server: its health names no model");
    return model;
  }

  private post(path: string, body: unknown, timeoutMs: number, signal?: AbortSignal): Promise<unknown> {
    const headers = { "Content-Type": "application/json" };
    return this.fetchJson(path, timeoutMs, signal, { method: "POST", headers, body: JSON.stringify(body) });
  }

  private async fetchJson(path: string, timeoutMs: number, signal?: AbortSignal, init?: RequestInit): Promise<unknown> {
    const timeout = AbortSignal.timeout(timeoutMs);
    const either = signal ? AbortSignal.any([signal, timeout]) : timeout;
    let text: string;
    let response: Response;
    try {
      response = await fetch(this.url.replace(/\/+$/, "") + path, { ...init, signal: either });
      text = await response.text();
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new OfflineError(messageOf(error));
    }
    if (response.status === 409) throw new SupersededError(text);
    if (!response.ok) throw new ServerError(response.status, `HTTP ${response.status}: ${text.slice(0, 500)}`);
    try {
      return JSON.parse(text);
    } catch {
      throw new ServerError(0, `not JSON: ${text.slice(0, 100)}`);
    }
  }
}

/** What went wrong, with the cause that `fetch` hides one level down. */
export function messageOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.cause === undefined ? error.message : `${error.message}: ${messageOf(error.cause)}`;
}
