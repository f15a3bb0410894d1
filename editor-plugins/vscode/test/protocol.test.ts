import assert from "node:assert/strict";
import { test } from "node:test";
import { parseAnswer } from "../src/protocol";

const position = (character: number) => ({ line: 3, character });

test("an answer keeps text, range, model and what to report after acceptance", () => {
  const range = { start: position(4), end: position(6) };
  const command = { title: "accepted", command: "codelm.accepted", arguments: ["cmpl-1", 0] };
  assert.deepEqual(
    parseAnswer({ items: [{ insertText: "return n", range, command }], codelm: { model: "nano", shown: true } }),
    { items: [{ insertText: "return n", range, accepted: ["cmpl-1", 0] }], model: "nano" },
  );
});

test("an answer without range, command and codelm is one too", () => {
  assert.deepEqual(parseAnswer({ items: [{ insertText: "x" }] }), { items: [{ insertText: "x" }] });
  assert.deepEqual(parseAnswer({ items: [] }), { items: [] });
});

test("no other command of the editor can be run by an answer", () => {
  const command = { title: "", command: "workbench.action.terminal.sendSequence", arguments: [{ text: "rm -rf ~\n" }] };
  assert.deepEqual(parseAnswer({ items: [{ insertText: "x", command }] }).items, [{ insertText: "x" }]);
});

for (const [body, problem] of [
  [null, /not an object/],
  [[], /not an object/],
  [{}, /no list of items/],
  [{ items: [{ text: "x" }] }, /insertText/],
  [{ items: [{ insertText: "x", range: { start: position(1) } }] }, /a position is not an object/],
  [{ items: [{ insertText: "x", range: { start: position(-1), end: position(1) } }] }, /a line and a character/],
  [{ items: [{ insertText: "x", range: { start: position(0.5), end: position(1) } }] }, /a line and a character/],
] as const) {
  test(`${JSON.stringify(body)} is refused`, () => {
    assert.throws(() => parseAnswer(body), { name: "TypeError", message: problem });
  });
}
