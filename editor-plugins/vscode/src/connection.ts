/** What is known about the server: looked up at the start, learnt from each answer, asked again while it is away. */

import { Client, OfflineError, messageOf } from "./client";
import type { CompletionAnswer, CompletionItem, CompletionRequest } from "./protocol";
import { backoff, pause } from "./timing";

export type State = "ready" | "working" | "offline";

export class Connection {
  /** The loaded model's name, as far as known. */
  model: string | undefined;
  /** Why the server cannot be used; undefined when it can. */
  problem: string | undefined;
  /** Milliseconds that the last answer took, seen from here. */
  lastMs: number | undefined;

  private client: Client;
  private running = 0;
  private looking: AbortController | undefined;

  /** `changed` is called after each change of what is shown, `log` gets one line at a time. */
  constructor(
    url: string,
    private readonly changed: () => void,
    private readonly log: (line: string) => void,
  ) {
    this.client = new Client(url);
  }

  get url(): string {
    return this.client.url;
  }

  get state(): State {
    if (this.problem !== undefined) return "offline";
    return this.running > 0 || this.model === undefined ? "working" : "ready";
  }

  /** Forgets the old server and looks for the one at `url`. */
  connect(url: string): void {
    this.client = new Client(url);
    this.model = this.problem = this.lastMs = undefined;
    void this.look();
  }

  /** Asks for the server's health until it answers, more and more seldom. Resolves after the first attempt. */
  async look(): Promise<void> {
    this.dispose();
    const looking = (this.looking = new AbortController());
    const { signal } = looking;
    if (await this.check(signal)) return;
    void (async () => {
      for (let attempt = 0; await pause(backoff(attempt), signal); attempt++) {
        if (await this.check(signal)) return;
      }
    })();
  }

  /** Asks one completion of the server. Throws as `Client.complete` does. */
  async run(ask: (client: Client) => Promise<CompletionAnswer>): Promise<CompletionItem[]> {
    const client = this.client;
    const started = performance.now();
    this.running++;
    this.changed();
    try {
      const answer = await ask(client);
      if (client === this.client) {
        this.lastMs = performance.now() - started;
        this.found(answer.model ?? this.model ?? "");
      }
      return answer.items;
    } catch (error) {
      if (error instanceof OfflineError && client === this.client && this.problem === undefined) {
        this.lost(error);
        void this.look();
      }
      throw error;
    } finally {
      this.running--;
      this.changed();
    }
  }

  /** Tells the server that a suggestion was taken; what goes wrong is only logged. */
  async accepted(id: string): Promise<void> {
    try {
      await this.client.accepted(id);
    } catch (error) {
      this.log(`${this.url}: ${messageOf(error)}`);
    }
  }

  /** Has the server read ahead, if it is there. What goes wrong is only logged, and that it is not there is not even that. */
  async warm(request: CompletionRequest): Promise<void> {
    if (this.problem !== undefined) return;
    try {
      await this.client.warm(request);
    } catch (error) {
      if (!(error instanceof OfflineError)) this.log(`${this.url}: ${messageOf(error)}`);
    }
  }

  /** Stops looking. */
  dispose(): void {
    this.looking?.abort();
    this.looking = undefined;
  }

  /** One look at the health; true when there is no need for another. */
  private async check(signal: AbortSignal): Promise<boolean> {
    try {
      const model = await this.client.model(signal);
      if (!signal.aborted) this.found(model);
      return true;
    } catch (error) {
      if (signal.aborted) return true;
      this.lost(error);
      return false;
    }
  }

  private found(model: string): void {
    if (this.problem !== undefined || this.model !== model) this.log(`${this.url} serves ${model}`);
    this.model = model;
    this.problem = undefined;
    this.dispose();
    this.changed();
  }

  private lost(error: unknown): void {
    const problem = messageOf(error);
    if (this.problem !== problem) this.log(`${this.url}: ${problem}`);
    this.problem = problem;
    this.changed();
  }
}
