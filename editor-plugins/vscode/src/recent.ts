/** What the user opened and edited lately: the server shows the model what matters of it. */

import type { RecentFile, SourceFile } from "./protocol";

/** Of each kind, the latest ones. */
const MOST = 6;
/** Edits that are no farther apart are one. */
const NEAR_LINES = 10;
/** Of an edit with what stands around it. */
const MOST_LINES = 60;
const LINES_AROUND = 3;
/** In UTF-16 units: of one text, and of all that come along with a request. They are sent with every keystroke. */
const MAX_TEXT_LENGTH = 32_000;
const MAX_LENGTH = 64_000;
/** Files that come whole. */
const MOST_FILES = 3;

/** A change of a document: lines from `line` on, `removed` line breaks that were there and `added` that are there now. */
export interface Change {
  line: number;
  removed: number;
  added: number;
}

/** The lines of a document as the editor has it now. */
export interface Lines {
  count: number;
  /** Of the whole text, in UTF-16 units. */
  readonly length: number;
  /** The text of lines, both included. */
  text(first: number, last: number): string;
}

interface Edit {
  uri: string;
  first: number;
  last: number;
}

/** The latest first. Lines are counted from 0. */
export class Recent {
  private opened: string[] = [];
  private edits: Edit[] = [];

  /** A document was brought to the front. */
  open(uri: string): void {
    this.opened = [uri, ...this.opened.filter((one) => one !== uri)].slice(0, MOST + 1);
  }

  /** A document was changed. */
  edit(uri: string, { line, removed, added }: Change): void {
    const edit: Edit = { uri, first: line, last: line + added };
    const others = [];
    for (const other of this.edits) {
      if (other.uri === uri) {
        moveBy(other, line, added - removed);
        const first = Math.min(edit.first, other.first);
        const last = Math.max(edit.last, other.last);
        const near = edit.first - other.last <= NEAR_LINES && other.first - edit.last <= NEAR_LINES;
        if (near && last - first < MOST_LINES) {
          Object.assign(edit, { first, last });
          continue;
        }
      }
      others.push(other);
    }
    if (edit.last - edit.first >= MOST_LINES) edit.first = edit.last - MOST_LINES + 1;
    this.edits = [edit, ...others].slice(0, MOST);
  }

  /**
   * What a request for the document `current` tells of the others. `linesOf`: of a document that the editor has and that may be
   * sent; undefined for others, of which nothing is said.
   */
  besides(current: string, linesOf: (uri: string) => Lines | undefined): { files: SourceFile[]; recent: RecentFile[] } {
    let left = MAX_LENGTH;
    const fits = (text: { length: number }) => text.length <= Math.min(left, MAX_TEXT_LENGTH);
    const recent: RecentFile[] = [];
    for (const { uri, first, last } of this.edits) {
      const lines = uri === current ? undefined : linesOf(uri);
      if (!lines || first >= lines.count) continue;
      const start = Math.max(0, first - LINES_AROUND);
      const end = Math.min(lines.count - 1, last + LINES_AROUND);
      const text = lines.text(start, end);
      if (!fits(text)) continue;
      left -= text.length;
      const range = { start: { line: start, character: 0 }, end: { line: end + 1, character: 0 } };
      recent.push({ uri, kind: "edited", range, text });
    }
    const files: SourceFile[] = [];
    for (const uri of this.opened) {
      const lines = uri === current ? undefined : linesOf(uri);
      if (!lines) continue;
      recent.push({ uri, kind: "opened" });
      if (files.length === MOST_FILES || !fits(lines)) continue; // the text itself is only made where it is sent
      const text = lines.text(0, lines.count - 1);
      left -= text.length;
      files.push({ uri, text });
    }
    return { files, recent };
  }
}

/** Moves an edit as far as a change above or within it does. */
function moveBy(edit: Edit, line: number, lines: number): void {
  if (line < edit.first) edit.first = Math.max(line, edit.first + lines);
  if (line <= edit.last) edit.last = Math.max(edit.first, line, edit.last + lines);
}
