/** Has the server read ahead what a completion would have to read first: when a file comes to the front, or the cursor jumps. */

import { pause } from "./timing";

/** A cursor that walks through a file, or through files, asks when it rests. */
export const REST_MS = 200;

export class Warmer {
  private readonly waiting = new Map<string, AbortController>();
  private readonly due = new Set<string>();
  private readonly running = new Set<string>();
  private readonly places = new Map<string, { line: number; version: number }>();

  /** `warm` asks the server for the document as it is then, and throws nothing. */
  constructor(
    private readonly warm: (uri: string) => Promise<void>,
    private readonly restMs = REST_MS,
  ) {}

  /** The document came to the front, with the cursor where it is. */
  opened(uri: string, line: number, version: number): void {
    this.places.set(uri, { line, version });
    void this.soon(uri);
  }

  /**
   * The cursor is at another place. It has jumped if the line is another one and the text the same: what is typed and what is
   * accepted changes the text, and the server reads on by itself.
   */
  moved(uri: string, line: number, version: number): void {
    const before = this.places.get(uri);
    this.places.set(uri, { line, version });
    if (before && before.version === version && before.line !== line) void this.soon(uri);
  }

  /** A completion is asked for, which reads what there is to read. */
  asked(uri: string): void {
    this.waiting.get(uri)?.abort();
    this.waiting.delete(uri);
    this.due.delete(uri);
  }

  /** The document is closed. */
  closed(uri: string): void {
    this.asked(uri);
    this.places.delete(uri);
  }

  /** Asks nothing any more. */
  dispose(): void {
    for (const uri of [...this.waiting.keys()]) this.asked(uri);
  }

  private async soon(uri: string): Promise<void> {
    this.asked(uri);
    const waiting = new AbortController();
    this.waiting.set(uri, waiting);
    if (!(await pause(this.restMs, waiting.signal))) return;
    this.waiting.delete(uri);
    this.due.add(uri);
    if (this.running.has(uri)) return; // its turn comes when the one before has been answered
    this.running.add(uri);
    while (this.due.delete(uri)) await this.warm(uri);
    this.running.delete(uri);
  }
}
