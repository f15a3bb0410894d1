import assert from "node:assert/strict";
import { test } from "node:test";
import { TextDocument } from "./textDocument";
import { acceptEntry, cursorAfter, includeEntry, type SelectedEntry } from "../src/selection";

// `self.co` is typed, the menu's entry is `count`; text follows the cursor.
const document = new TextDocument("class A:\r\n    s = '🙂'; self.co)\r\n");
const entry: SelectedEntry = {
  range: { start: { line: 1, character: 19 }, end: { line: 1, character: 21 } },
  text: "count",
};
const completed = new TextDocument(acceptEntry(document.text, entry, (place) => document.offsetAt(place)));

test("the server sees the document with the menu's entry accepted", () => {
  assert.equal(completed.text, "class A:\r\n    s = '🙂'; self.count)\r\n");
  assert.deepEqual(cursorAfter(entry), { line: 1, character: 24 });
});

for (const [what, item] of Object.entries({
  "an insertion at the cursor": { insertText: " + 1" },
  "a replacement of what follows the cursor": {
    insertText: " + 1]",
    range: { start: { line: 1, character: 24 }, end: { line: 1, character: 25 } },
  },
  "a replacement that begins inside the entry": {
    insertText: "ntdown",
    range: { start: { line: 1, character: 22 }, end: { line: 1, character: 24 } },
  },
  "a replacement that begins before the entry": {
    insertText: "this.count",
    range: { start: { line: 1, character: 14 }, end: { line: 1, character: 24 } },
  },
})) {
  test(`${what} gives the same text, from the document without the entry`, () => {
    const wanted = completed.apply({ range: { start: cursorAfter(entry), end: cursorAfter(entry) }, ...item });
    const mapped = includeEntry(item, entry);
    assert.equal(document.apply({ range: entry.range, ...mapped }), wanted);
    assert.equal(mapped.range?.start.line, mapped.range?.end.line, "VS Code wants the range on one line");
  });
}
