/** Where VS Code enters: builds the parts and ties them to settings and commands. */

import { randomUUID } from "node:crypto";
import * as vscode from "vscode";
import { messageOf } from "./client";
import { Connection } from "./connection";
import { ACCEPTED_COMMAND } from "./protocol";
import { Provider } from "./provider";
import { settings, toggle } from "./settings";
import { StatusBar } from "./statusBar";

/** How many suggestions were accepted; kept by VS Code on this machine, sent nowhere. */
const ACCEPTED_COUNT = "accepted";

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
  const provider = new Provider(connection, `vscode-${randomUUID().slice(0, 8)}`, (error) => void report(error));

  context.subscriptions.push(
    log,
    statusBar,
    connection,
    vscode.languages.registerInlineCompletionItemProvider({ pattern: "**" }, provider),
    vscode.commands.registerCommand("codelm.toggle", toggle),
    vscode.commands.registerCommand("codelm.showStatus", async () => {
      await connection.look();
      log.info(connection.problem ? "codelm serve MODEL.gguf starts a server" : `${connection.url} is ready`);
      log.show(true);
    }),
    vscode.commands.registerCommand(ACCEPTED_COMMAND, async (id?: unknown) => {
      log.debug(`accepted ${String(id)}`);
      await context.globalState.update(ACCEPTED_COUNT, accepted() + 1);
      refresh();
    }),
    vscode.workspace.onDidChangeConfiguration((change) => {
      if (change.affectsConfiguration("codelm.serverUrl")) connection.connect(settings().serverUrl);
      else if (change.affectsConfiguration("codelm.enable")) refresh();
    }),
  );
  refresh();
  void connection.look();
}
