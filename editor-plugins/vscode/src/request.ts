/** What is asked of the server: the document, and what the user did besides. */

import * as vscode from "vscode";
import { type CompletionRequest, TriggerKind } from "./protocol";
import type { Lines, Recent } from "./recent";
import { acceptEntry, cursorAfter, type SelectedEntry } from "./selection";
import { settings } from "./settings";

/** In UTF-16 units. Larger documents are generated ones, and sending them with each keystroke costs more than it brings. */
const MAX_TEXT_LENGTH = 1_000_000;
/** Prose, logs and what holds secrets: no use for code. */
const NO_CODE = ["plaintext", "log", "dotenv"];

export class Requests {
  constructor(
    /** One per editor window: the server drops a window's older request for the same document. */
    private readonly clientId: string,
    private readonly recent: Recent,
  ) {}

  /** A request for a place in a document, with an entry of the suggestion menu accepted; undefined if none is to be made. */
  at(
    document: vscode.TextDocument,
    position: vscode.Position,
    triggerKind: TriggerKind = TriggerKind.automatic,
    entry?: SelectedEntry,
  ): CompletionRequest | undefined {
    const { enable, disabledLanguages, budgetMs, recentFiles } = settings();
    if (!enable || disabledLanguages.includes(document.languageId)) return undefined;
    const text = document.getText();
    if (text.length > MAX_TEXT_LENGTH) return undefined;
    const offsetOf = (place: { line: number; character: number }) =>
      document.offsetAt(new vscode.Position(place.line, place.character));
    const uri = document.uri.toString();
    return {
      textDocument: {
        uri,
        languageId: document.languageId,
        version: document.version,
        text: entry ? acceptEntry(text, entry, offsetOf) : text,
      },
      position: entry ? cursorAfter(entry) : { line: position.line, character: position.character },
      context: { triggerKind },
      codelm: {
        client: this.clientId,
        budgetMs,
        workspaceFolders: (vscode.workspace.workspaceFolders ?? []).map(({ uri, name }) => ({ uri: uri.toString(), name })),
        ...(recentFiles ? this.recent.besides(uri, linesOf) : {}),
      },
    };
  }
}

/** The lines of an open document of the workspace that is code; undefined for others. */
function linesOf(uri: string): Lines | undefined {
  const document = vscode.workspace.textDocuments.find((one) => one.uri.toString() === uri);
  if (!document || !isCode(document) || !vscode.workspace.getWorkspaceFolder(document.uri)) return undefined;
  return {
    count: document.lineCount,
    get length() {
      return document.offsetAt(document.lineAt(document.lineCount - 1).range.end);
    },
    text: (first, last) => document.getText(new vscode.Range(first, 0, last + 1, 0)),
  };
}

/** Whether a document may be sent where no completion is asked for: what may hold secrets may not. */
export function isCode(document: vscode.TextDocument): boolean {
  const { languageId, uri } = document;
  const hidden = uri.path.slice(uri.path.lastIndexOf("/") + 1).startsWith(".");
  return !hidden && !NO_CODE.includes(languageId) && !settings().disabledLanguages.includes(languageId);
}
