/** Where VS Code enters: builds the parts and ties them to settings and commands. */

import { randomUUID } from "node:crypto";
import * as vscode from "vscode";
import { messageOf } from "./client";
import { Connection } from "./connection";
import { ACCEPTED_COMMAND } from "./protocol";
import { Provider } from "./provider";
import { Recent } from "./recent";
import { isCode, Requests } from "./request";
import { settings, toggle } from "./settings";
import { StatusBar } from "./statusBar";
import { Warmer } from "./warmer";

/** How many suggestions were accepted; kept by VS Code on this machine, sent nowhere. */
const ACCEPTED_COUNT = "accepted";

/** All of them, but not what is no file, such as the output of programs. */
const FILES: vscode.DocumentSelector = { pattern: "**" };

export function activate(context: vscode.ExtensionContext): void {
  const log = vscode.window.createOutputChannel("codelm", { log: true });
  const statusBar = new StatusBar();
  const accepted = () => context.globalState.get<number>(ACCEPTED_COUNT, 0);
  const refresh = () => statusBar.show(connection, accepted());
  const connection = new Connection(settings().serverUrl, refresh, (line) => log.info(line));

  let warned = false;
  const report = async (error: unknown) => {
    log.error(messageOf(error));
    if (warned) return;
    warned = true;
    const answer = await vscode.window.showWarningMessage("codelm: the server answered with an error.", "Show log");
    if (answer) log.show();
  };
  const recent = new Recent();
  const requests = new Requests(`vscode-${randomUUID().slice(0, 8)}`, recent);
  const warmer = new Warmer(async (uri) => {
    const editor = vscode.window.activeTextEditor;
    if (editor?.document.uri.toString() !== uri || !isCode(editor.document)) return;
    const request = requests.at(editor.document, editor.selection.active);
    if (request) await connection.warm(request);
  });
  const provider = new Provider(
    connection,
    requests,
    (uri) => warmer.asked(uri),
    (error) => void report(error),
  );
  const opened = (editor: vscode.TextEditor | undefined) => {
    if (!editor || !vscode.languages.match(FILES, editor.document)) return;
    const { document, selection } = editor;
    recent.open(document.uri.toString());
    warmer.opened(document.uri.toString(), selection.active.line, document.version);
  };

  context.subscriptions.push(
    log,
    statusBar,
    connection,
    warmer,
    vscode.window.onDidChangeActiveTextEditor(opened),
    vscode.window.onDidChangeTextEditorSelection(({ textEditor: { document }, selections }) => {
      if (!vscode.languages.match(FILES, document)) return;
      warmer.moved(document.uri.toString(), selections[0]?.active.line ?? 0, document.version);
    }),
    vscode.workspace.onDidChangeTextDocument(({ document, contentChanges }) => {
      if (!vscode.languages.match(FILES, document)) return;
      for (const { range, text } of contentChanges) {
        const removed = range.end.line - range.start.line;
        recent.edit(document.uri.toString(), { line: range.start.line, removed, added: text.split("\n").length - 1 });
      }
    }),
    vscode.workspace.onDidCloseTextDocument((document) => warmer.closed(document.uri.toString())),
    vscode.languages.registerInlineCompletionItemProvider(FILES, provider),
    vscode.commands.registerCommand("codelm.toggle", toggle),
    vscode.commands.registerCommand("codelm.showStatus", async () => {
      await connection.look();
      log.info(connection.problem ? "codelm serve MODEL.gguf starts a server" : `${connection.url} is ready`);
      log.show(true);
    }),
    vscode.commands.registerCommand(ACCEPTED_COMMAND, async (id?: unknown) => {
      log.debug(`accepted ${String(id)}`);
      if (typeof id === "string") void connection.accepted(id);
      await context.globalState.update(ACCEPTED_COUNT, accepted() + 1);
      refresh();
    }),
    vscode.workspace.onDidChangeConfiguration((change) => {
      if (change.affectsConfiguration("codelm.serverUrl")) connection.connect(settings().serverUrl);
      else if (change.affectsConfiguration("codelm.enable")) refresh();
    }),
  );
  refresh();
  void connection.look().then(() => opened(vscode.window.activeTextEditor));
}
