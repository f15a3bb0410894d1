/** The server's native API: LSP 3.18 `textDocument/inlineCompletion` with the text alongside. Positions are UTF-16. */

export interface Position {
  line: number;
  character: number;
}

export interface Range {
  start: Position;
  end: Position;
}

/** LSP's numbers; VS Code's own are one less. */
export const TriggerKind = { invoked: 1, automatic: 2 } as const;
export type TriggerKind = (typeof TriggerKind)[keyof typeof TriggerKind];

/** Another file of the project, as the editor has it. */
export interface SourceFile {
  uri: string;
  text: string;
}

/** A file, or some lines of one, that the user opened or edited lately. `text`: of these lines. */
export interface RecentFile {
  uri: string;
  kind: "opened" | "edited";
  range?: Range;
  text?: string;
}

export interface WorkspaceFolder {
  uri: string;
  name: string;
}

export interface CompletionRequest {
  textDocument: { uri: string; languageId: string; version: number; text: string };
  position: Position;
  context: { triggerKind: TriggerKind };
  codelm: {
    client: string;
    budgetMs: number;
    /** The latest first. */
    recent?: RecentFile[];
    files?: SourceFile[];
    workspaceFolders?: WorkspaceFolder[];
  };
}

export interface CompletionItem {
  insertText: string;
  range?: Range;
  /** What the server wants to be told about after acceptance: the answer's id and the item's index. */
  accepted?: unknown[];
}

export interface CompletionAnswer {
  items: CompletionItem[];
  model?: string;
}

export const ACCEPTED_COMMAND = "codelm.accepted";

/** Reads an answer; throws a TypeError that names what is wrong. */
export function parseAnswer(body: unknown): CompletionAnswer {
  const { items, codelm } = object(body, "the answer");
  if (!Array.isArray(items)) throw new TypeError("the answer has no list of items");
  const answer: CompletionAnswer = { items: items.map(parseItem) };
  const model = codelm === undefined ? undefined : object(codelm, "codelm").model;
  if (typeof model === "string") answer.model = model;
  return answer;
}

function parseItem(value: unknown): CompletionItem {
  const { insertText, range, command } = object(value, "an item");
  if (typeof insertText !== "string") throw new TypeError("an item's insertText is not a string");
  const item: CompletionItem = { insertText };
  if (range !== undefined && range !== null) item.range = parseRange(range);
  if (command !== undefined && command !== null) {
    // The server may ask for this one command only: an answer must not be able to run any other.
    const { command: name, arguments: args } = object(command, "an item's command");
    if (name === ACCEPTED_COMMAND) item.accepted = Array.isArray(args) ? args : [];
  }
  return item;
}

function parseRange(value: unknown): Range {
  const { start, end } = object(value, "a range");
  return { start: parsePosition(start), end: parsePosition(end) };
}

function parsePosition(value: unknown): Position {
  const { line, character } = object(value, "a position");
  if (!isIndex(line) || !isIndex(character)) throw new TypeError("a position needs a line and a character");
  return { line, character };
}

function isIndex(value: unknown): value is number {
  return Number.isInteger(value) && (value as number) >= 0;
}

function object(value: unknown, what: string): Record<string, unknown> {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw new TypeError(`${what} is not an object`);
  }
  return value as Record<string, unknown>;
}
