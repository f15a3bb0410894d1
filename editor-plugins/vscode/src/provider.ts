/** Answers VS Code's wish for ghost text. */

import * as vscode from "vscode";
import { type Client, OfflineError, SupersededError } from "./client";
import type { Connection } from "./connection";
import { ACCEPTED_COMMAND, type CompletionItem, TriggerKind } from "./protocol";
import type { Requests } from "./request";
import { includeEntry } from "./selection";
import { settings } from "./settings";
import { pause } from "./timing";

export class Provider implements vscode.InlineCompletionItemProvider {
  constructor(
    private readonly connection: Connection,
    private readonly requests: Requests,
    /** Hears of each document that a completion is asked for. */
    private readonly asked: (uri: string) => void,
    /** Gets what the user did not cause and the status bar does not show. */
    private readonly report: (error: unknown) => void,
  ) {}

  async provideInlineCompletionItems(
    document: vscode.TextDocument,
    position: vscode.Position,
    context: vscode.InlineCompletionContext,
    token: vscode.CancellationToken,
  ): Promise<vscode.InlineCompletionItem[]> {
    const { enable, disabledLanguages, debounceMs } = settings();
    if (!enable || disabledLanguages.includes(document.languageId)) return [];

    const automatic = context.triggerKind === vscode.InlineCompletionTriggerKind.Automatic;
    const cancelled = new AbortController();
    const subscription = token.onCancellationRequested(() => cancelled.abort());
    if (token.isCancellationRequested) cancelled.abort();
    try {
      if (!(await pause(automatic ? debounceMs : 0, cancelled.signal))) return [];
      const entry = context.selectedCompletionInfo;
      const kind = automatic ? TriggerKind.automatic : TriggerKind.invoked;
      const request = this.requests.at(document, position, kind, entry);
      if (!request) return [];
      this.asked(request.textDocument.uri);
      const items = await this.connection.run((client: Client) => client.complete(request, cancelled.signal));
      if (cancelled.signal.aborted) return [];
      return items.map((item) => toVscode(entry ? includeEntry(item, entry) : item, position));
    } catch (error) {
      // Whoever asked no longer wants to know, or the status bar has said it already.
      const expected = cancelled.signal.aborted || error instanceof OfflineError || error instanceof SupersededError;
      if (!expected) this.report(error);
      return [];
    } finally {
      subscription.dispose();
    }
  }
}

function toVscode(item: CompletionItem, cursor: vscode.Position): vscode.InlineCompletionItem {
  const { start, end } = item.range ?? { start: cursor, end: cursor };
  const range = new vscode.Range(start.line, start.character, end.line, end.character);
  return new vscode.InlineCompletionItem(item.insertText, range, {
    title: "accepted",
    command: ACCEPTED_COMMAND,
    arguments: item.accepted ?? [],
  });
}
