/** Waiting: for the next keystroke, and for a server that is not there yet. */

import { setTimeout as wait } from "node:timers/promises";

/** True after `ms` milliseconds, false as soon as the signal is aborted. */
export async function pause(ms: number, signal: AbortSignal): Promise<boolean> {
  if (signal.aborted) return false;
  if (ms <= 0) return true;
  try {
    await wait(ms, undefined, { signal });
    return true;
  } catch {
    return false;
  }
}

/** How long to wait before attempt number `attempt` (from 0), in milliseconds: 1 s, doubling up to 30 s. */
export function backoff(attempt: number): number {
  return Math.min(1_000 * 2 ** attempt, 30_000);
}
