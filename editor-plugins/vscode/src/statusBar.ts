/** The item at the bottom of the window: what codelm does now, and the way to switch it on and off. */

import * as vscode from "vscode";
import type { Connection } from "./connection";
import { settings } from "./settings";

export class StatusBar {
  private readonly item = vscode.window.createStatusBarItem("codelm.status", vscode.StatusBarAlignment.Right, 100);

  constructor() {
    this.item.name = "codelm";
    this.item.command = "codelm.toggle";
  }

  show(connection: Connection, accepted: number): void {
    const state = settings().enable ? connection.state : "off";
    const model = connection.model ?? "";
    const icon = { ready: "sparkle", working: "loading~spin", offline: "debug-disconnect", off: "circle-slash" }[state];
    const label = { ready: model, working: model, offline: "offline", off: "off" }[state];
    this.item.text = `$(${icon}) codelm${label ? `: ${label}` : ""}`;
    this.item.accessibilityInformation = { label: `codelm ${state} ${model}`.trim(), role: "button" };
    this.item.backgroundColor =
      state === "offline" ? new vscode.ThemeColor("statusBarItem.warningBackground") : undefined;

    const tooltip = new vscode.MarkdownString();
    const line = (text: string) => tooltip.appendMarkdown(text + "\n\n");
    if (state === "off") line("Completions are off. Click to turn them on.");
    else {
      if (state === "offline") {
        line(`No server at \`${connection.url}\`. Start one with`);
        tooltip.appendCodeblock("codelm serve MODEL.gguf", "sh");
        if (connection.problem) tooltip.appendText(connection.problem).appendMarkdown("\n\n");
      } else if (model) line(`\`${model}\` at \`${connection.url}\``);
      if (connection.lastMs !== undefined) line(`Last answer: ${Math.round(connection.lastMs)} ms`);
      line("Click to turn completions off.");
    }
    if (accepted > 0) line(`Accepted so far: ${accepted}`);
    this.item.tooltip = tooltip;
    this.item.show();
  }

  dispose(): void {
    this.item.dispose();
  }
}
