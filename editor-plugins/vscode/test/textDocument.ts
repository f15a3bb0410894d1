import type { Position, Range } from "../src/protocol";

/** As much of an editor's document as the tests need; positions are in UTF-16 units, as JavaScript's strings are. */
export class TextDocument {
  constructor(readonly text: string) {}

  offsetAt({ line, character }: Position): number {
    let offset = 0;
    for (let i = 0; i < line; i++) offset = this.text.indexOf("\n", offset) + 1;
    return offset + character;
  }

  apply({ range, insertText }: { range: Range; insertText: string }): string {
    return this.text.slice(0, this.offsetAt(range.start)) + insertText + this.text.slice(this.offsetAt(range.end));
  }
}
