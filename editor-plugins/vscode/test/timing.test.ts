import assert from "node:assert/strict";
import { test } from "node:test";
import { backoff, pause } from "../src/timing";

test("of many keystrokes in a row only the last one asks", async () => {
  let previous: AbortController | undefined;
  const asked: number[] = [];
  const keystrokes = Array.from({ length: 10 }, async (_, key) => {
    previous?.abort();
    const { signal } = (previous = new AbortController());
    if (await pause(20, signal)) asked.push(key);
  });
  await Promise.all(keystrokes);
  assert.deepEqual(asked, [9]);
});

test("no pause asks at once, unless it was cancelled before", async () => {
  assert.equal(await pause(0, new AbortController().signal), true);
  assert.equal(await pause(0, AbortSignal.abort()), false);
});

test("a server that is away is asked more and more seldom", () => {
  assert.deepEqual([0, 1, 2, 3, 4, 5, 6, 100].map(backoff), [1e3, 2e3, 4e3, 8e3, 16e3, 30e3, 30e3, 30e3]);
});
