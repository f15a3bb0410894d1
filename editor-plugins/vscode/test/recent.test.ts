import assert from "node:assert/strict";
import { test } from "node:test";
import { type Lines, Recent } from "../src/recent";

/** A document of so many numbered lines. */
function numbered(count: number): Lines {
  const text = (first: number, last: number) =>
    Array.from({ length: last - first + 1 }, (_, index) => `${first + index}\n`).join("");
  return { count, length: text(0, count - 1).length, text };
}

const everywhere = () => numbered(200);
const typed = { removed: 0, added: 0 };
const rangesOf = (recent: Recent, current = "now") =>
  recent.besides(current, everywhere).recent.map(({ uri, range }) => [uri, range?.start.line, range?.end.line]);

test("an edit is told with its lines and those around it, the latest first", () => {
  const recent = new Recent();
  recent.edit("a", { line: 50, removed: 0, added: 2 });
  recent.edit("b", { line: 0, ...typed });
  const { files, recent: told } = recent.besides("now", everywhere);
  assert.deepEqual(files, []);
  assert.deepEqual(told, [
    { uri: "b", kind: "edited", range: { start: { line: 0, character: 0 }, end: { line: 4, character: 0 } }, text: "0\n1\n2\n3\n" },
    {
      uri: "a",
      kind: "edited",
      range: { start: { line: 47, character: 0 }, end: { line: 56, character: 0 } },
      text: "47\n48\n49\n50\n51\n52\n53\n54\n55\n",
    },
  ]);
});

test("edits near each other are one, and others stay apart", () => {
  const recent = new Recent();
  recent.edit("a", { line: 20, ...typed });
  recent.edit("a", { line: 26, ...typed });
  recent.edit("a", { line: 90, ...typed });
  assert.deepEqual(rangesOf(recent), [
    ["a", 87, 94],
    ["a", 17, 30],
  ]);
});

test("lines that come and go above an edit move it", () => {
  const recent = new Recent();
  recent.edit("a", { line: 100, ...typed });
  recent.edit("b", { line: 100, ...typed });
  recent.edit("a", { line: 10, removed: 0, added: 5 });
  assert.deepEqual(rangesOf(recent)[2], ["a", 102, 109]);
  recent.edit("a", { line: 50, removed: 20, added: 0 });
  assert.deepEqual(rangesOf(recent)[2], ["b", 97, 104], "another document's stays");
  assert.deepEqual(rangesOf(recent)[3], ["a", 82, 89]);
});

test("an edit is not told of more than a screen", () => {
  const recent = new Recent();
  recent.edit("a", { line: 0, removed: 0, added: 150 });
  assert.deepEqual(rangesOf(recent), [["a", 88, 154]]);
});

test("what was opened comes whole, but the document itself, and not what may not be sent or is too long", () => {
  const recent = new Recent();
  for (const uri of ["a", "b", "secret", "huge", "a", "now"]) recent.open(uri);
  recent.edit("now", { line: 1, ...typed });
  const told = recent.besides("now", (uri) => {
    return uri === "secret" ? undefined : uri === "huge" ? numbered(10_000) : numbered(2);
  });
  assert.deepEqual(told, {
    files: [
      { uri: "a", text: "0\n1\n" },
      { uri: "b", text: "0\n1\n" },
    ],
    recent: [
      { uri: "a", kind: "opened" },
      { uri: "huge", kind: "opened" },
      { uri: "b", kind: "opened" },
    ],
  });
});

test("only so much is told", () => {
  const recent = new Recent();
  for (let number = 0; number < 50; number++) {
    recent.open(`file ${number}`);
    recent.edit(`file ${number}`, { line: 5, ...typed });
  }
  const { files, recent: told } = recent.besides("now", everywhere);
  assert.equal(files.length, 3);
  assert.equal(told.filter(({ kind }) => kind === "edited").length, 6);
  const long: Lines = { length: 30_000, count: 10, text: () => "x".repeat(30_000) };
  const sent = recent.besides("now", () => long);
  assert.equal(sent.files.length + sent.recent.filter(({ text }) => text).length, 2);
});

test("an edit beyond the end of what is left of a document is not told", () => {
  const recent = new Recent();
  recent.edit("a", { line: 500, ...typed });
  assert.deepEqual(rangesOf(recent), []);
});

test("the text of a file that is not sent is not made", () => {
  const recent = new Recent();
  for (const uri of ["a", "b", "c", "d", "huge"]) recent.open(uri);
  const made: string[] = [];
  const linesOf = (uri: string): Lines => ({
    count: 1,
    length: uri === "huge" ? 40_000 : 1,
    text: () => {
      made.push(uri);
      return "x";
    },
  });
  const { files } = recent.besides("now", linesOf);
  assert.deepEqual(files.map(({ uri }) => uri), ["d", "c", "b"]);
  assert.deepEqual(made, ["d", "c", "b"]);
});
