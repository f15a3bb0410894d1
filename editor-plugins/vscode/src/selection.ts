/**
 * The entry selected in the suggestion menu. While the menu is open, VS Code shows ghost text only if it continues that
 * entry: so the server is asked to complete the text as it would be with the entry accepted, and the answer is mapped
 * back to the document as it is.
 */

import type { CompletionItem, Position, Range } from "./protocol";

/** The entry's text and the part of the document it would replace, which lies on one line. */
export interface SelectedEntry {
  range: Range;
  text: string;
}

/** Where the cursor stands once the entry is accepted. */
export function cursorAfter(entry: SelectedEntry): Position {
  return { line: entry.range.start.line, character: entry.range.start.character + entry.text.length };
}

/** The document with the entry accepted; `offsetOf` gives the UTF-16 offset of a position in `text`. */
export function acceptEntry(text: string, entry: SelectedEntry, offsetOf: (position: Position) => number): string {
  return text.slice(0, offsetOf(entry.range.start)) + entry.text + text.slice(offsetOf(entry.range.end));
}

/** An item for the document with the entry accepted → the same change to the document without it. */
export function includeEntry(item: CompletionItem, entry: SelectedEntry): CompletionItem {
  const cursor = cursorAfter(entry);
  const { start, end } = item.range ?? { start: cursor, end: cursor };
  const grown = entry.text.length - (entry.range.end.character - entry.range.start.character);
  const kept = entry.text.slice(0, Math.max(0, start.character - entry.range.start.character));
  return {
    ...item,
    insertText: kept + item.insertText,
    range: {
      start: { ...start, character: Math.min(start.character, entry.range.start.character) },
      end: { ...end, character: Math.max(end.character - grown, entry.range.end.character) },
    },
  };
}
