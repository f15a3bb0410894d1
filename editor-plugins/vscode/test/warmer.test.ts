import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as wait } from "node:timers/promises";
import { Warmer } from "../src/warmer";

const REST = 10;

/** A warmer that notes what it asks for; an answer comes when `answer` is called. */
function watch(): { warmer: Warmer; asked: string[]; answer(): void; rest(): Promise<void> } {
  const asked: string[] = [];
  const answers: (() => void)[] = [];
  const warmer = new Warmer((uri) => {
    asked.push(uri);
    return new Promise<void>((done) => answers.push(done));
  }, REST);
  return { warmer, asked, answer: () => answers.shift()?.(), rest: () => wait(5 * REST) };
}

test("a document that comes to the front is read ahead, once the cursor rests", async () => {
  const { warmer, asked, rest } = watch();
  for (let times = 0; times < 5; times++) warmer.opened("a", 0, 1);
  warmer.opened("b", 0, 1);
  assert.deepEqual(asked, []);
  await rest();
  assert.deepEqual(asked, ["a", "b"]);
});

test("a jump is another line of the same text: not a step on the line, typing or what is accepted", async () => {
  const { warmer, asked, answer, rest } = watch();
  warmer.opened("a", 0, 1);
  await rest();
  answer();
  warmer.moved("a", 0, 1);
  warmer.moved("a", 1, 2);
  warmer.moved("a", 4, 3);
  await rest();
  assert.deepEqual(asked, ["a"]);
  warmer.moved("a", 40, 3);
  await rest();
  assert.deepEqual(asked, ["a", "a"]);
});

test("a document is asked for once at a time, and once more if it was wanted meanwhile", async () => {
  const { warmer, asked, answer, rest } = watch();
  warmer.opened("a", 0, 1);
  await rest();
  for (const line of [10, 20, 30]) {
    warmer.moved("a", line, 1);
    await rest();
  }
  assert.deepEqual(asked, ["a"]);
  answer();
  await rest();
  assert.deepEqual(asked, ["a", "a"]);
  answer();
  await rest();
  assert.deepEqual(asked, ["a", "a"]);
});

test("a completion takes its place", async () => {
  const { warmer, asked, rest } = watch();
  warmer.opened("a", 0, 1);
  warmer.asked("a");
  warmer.opened("b", 0, 1);
  warmer.closed("b");
  warmer.opened("c", 0, 1);
  warmer.dispose();
  await rest();
  assert.deepEqual(asked, []);
});
